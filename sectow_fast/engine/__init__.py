"""Where tokens come from: one protocol, one engine a backend."""

from sectow_fast.extras import require

require("train")
