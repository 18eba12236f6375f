"""A model family: Mistral, a decoder of text alone with a sliding window.

A class whose positions differ returns a subclass of `Family` instead (see `MRopeFamily`).

    python -m sectow_fast.train --plugins family.py --model.defender FOLDER
"""

from __future__ import annotations

from sectow_fast.families import register_family, text_family

register_family("mistral", text_family)
