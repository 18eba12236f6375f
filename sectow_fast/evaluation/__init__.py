"""Any model on any suite by any judge: replies, verdicts, rates, and files other tools read."""

from sectow_fast.extras import require

require("train")
