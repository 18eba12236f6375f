"""How both roles learn: shared-prefix rows, GRPO steps, SFT steps, checkpoints."""

from sectow_fast.extras import require

require("train")
