"""Decoders of text alone: tokens stand on positions 0, 1, 2, ..."""

from sectow_fast.families.base import register_family, text_family

for _name in ("gemma3_text", "qwen2", "qwen3", "llama"):
    register_family(_name, text_family)
