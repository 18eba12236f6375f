"""What SecTOW is: two roles, their rewards, two monitors, the filter, the evaluation."""

from sectow_fast.extras import require

require("train")
