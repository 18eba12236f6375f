"""What trainer and engine must know of a model class: positions, image tokens, who sees whom.

Each file here is one kind of class. A file outside the package adds one by `register_family`, and
the self-test at start-up (learn/selftest.py) checks that its layout is right.
"""

from sectow_fast.families import (
    gemma,
    idefics3,
    internvl,
    lfm2,
    llava,
    minicpm,
    qwen_vl,
    text,
)
from sectow_fast.families.base import (
    FAMILIES,
    Family,
    FamilyEntry,
    family_of,
    ids_in,
    join_pixels,
    of_text,
    register_family,
    reply_ends,
    text_family,
)
from sectow_fast.families.qwen_vl import MRopeFamily

__all__ = [
    "FAMILIES",
    "Family",
    "FamilyEntry",
    "MRopeFamily",
    "family_of",
    "gemma",
    "idefics3",
    "ids_in",
    "internvl",
    "join_pixels",
    "lfm2",
    "llava",
    "minicpm",
    "of_text",
    "qwen_vl",
    "register_family",
    "reply_ends",
    "text",
    "text_family",
]
