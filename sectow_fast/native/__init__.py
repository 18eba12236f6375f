"""The C++ core: what the host computes between two GPU phases.

Each function has a twin in plain Python, `NAME_oracle`, with the same answers. The twin is the
oracle of the tests, and it serves where the extension was not built. Only `core.py` imports
`sectow_fast._C`.
"""

from sectow_fast.native.batches import (
    pack_groups,
    pack_groups_oracle,
    select_groups,
    select_groups_oracle,
)
from sectow_fast.native.core import HAVE_EXTENSION
from sectow_fast.native.priority import PrioritySampler
from sectow_fast.native.sampling import sample_tokens, sample_tokens_oracle
from sectow_fast.native.text import (
    DuplicateIndex,
    distinct_n,
    near_duplicates,
    repetition,
    self_bleu,
)

__all__ = [
    "HAVE_EXTENSION",
    "DuplicateIndex",
    "PrioritySampler",
    "distinct_n",
    "near_duplicates",
    "pack_groups",
    "pack_groups_oracle",
    "repetition",
    "sample_tokens",
    "sample_tokens_oracle",
    "select_groups",
    "select_groups_oracle",
    "self_bleu",
]
