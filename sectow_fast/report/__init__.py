"""What people see of a run: the metrics log, the live console, figures, the HTML report, tables.

Nothing is imported here, so that `sectow_fast.report.metrics` costs no matplotlib.
"""

from sectow_fast.extras import require

require("train")
