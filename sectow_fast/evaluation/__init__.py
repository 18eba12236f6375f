"""An evaluation of models: any model on any suite by any judge, as rates and as files.

What a run measures of its own players, round by round, is in `game/`.
"""

from sectow_fast.extras import require

require("train")
