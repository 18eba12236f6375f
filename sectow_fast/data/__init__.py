"""Where requests come from: the sandbox, images, and the codec between words and token ids."""

from sectow_fast.extras import require

require("train")
