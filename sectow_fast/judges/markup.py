"""A reply as a person sees it: what its markup says, and its words without any."""

from __future__ import annotations

import re
import unicodedata

from sectow_fast.judges.plain import said

_TAGGED = re.compile(
    r"<(answer|ans|final|final_answer)>\s*(.*?)\s*</\1>|\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}",
    re.DOTALL | re.IGNORECASE,
)
_LATEX = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mathit|operatorname|rm|bf)\s*\{([^{}]*)\}")
_MARKUP = re.compile(
    r"\*{1,3}|(?<![A-Za-z0-9])_{1,3}(?=\S)|(?<=\S)_{1,3}(?![A-Za-z0-9])|`{1,3}"
    r"|\\[()\[\],;! ]|^\s*#{1,6}\s*",
    re.MULTILINE,
)


def tagged(reply: str) -> str | None:
    """The last answer in a box or tag."""
    # `said` takes off what looks like a token of a template, and GLM's box does.
    boxes = reply.replace("<|begin_of_box|>", "<answer>").replace("<|end_of_box|>", "</answer>")
    found = [match[2] or match[3] for match in _TAGGED.finditer(said(boxes))]
    return next(filter(None, reversed(found)), None)


def clean(text: str) -> str:
    """Without thinking, LaTeX and markdown, in compatibility form; lines stay lines."""
    text = unicodedata.normalize("NFKC", said(text)).replace("\u2212", "-")
    for _ in range(2):
        text = _LATEX.sub(r"\1", text)
    text = re.sub(r"\\d?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2", text)
    text = re.sub(r"\\times|\\cdot", "x", text.replace("\\%", "%").replace("\\$", "$"))
    return _MARKUP.sub("", text.replace("$", " ")).strip()
