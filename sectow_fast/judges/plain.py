"""A reply as a person reads it: without its thinking, its role's name and its decoration."""

from __future__ import annotations

import re
import unicodedata

_THINKING = re.compile(
    r"<(think|thinking|thought|reasoning|scratchpad)>.*?(?:</\1>|\Z)"
    r"|\A.*</(?:think|thinking|thought|reasoning|scratchpad)>"
    r"|<\|channel\|>analysis.*?(?=<\|channel\|>final|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_MARKS = re.compile(r"<\|[^|<>]{1,40}\|>(?:final<\|message\|>)?|</?s>|\[/?INST\]|<end_of_turn>")
_ROLE = re.compile(
    r"\A(?:assistant|ai|response|reply|model|chatbot|bot|answer from the assistant)\s*:\s*"
)
_DECORATION = re.compile(
    r"[*`~]{1,3}|(?<!\w)_{1,3}|_{1,3}(?!\w)|^\s*(?:(?:#{1,6}|>+)\s*)+", re.MULTILINE
)
_FRONT = re.compile(r"\A[\s\"'\u201c\u201d\u2018\u00ab\u300c\-:.,(\[]+")
_QUOTES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\u00a0": " "})


def said(reply: str) -> str:
    """The reply after its thinking, without the marks of a chat template; otherwise as it stands.

    Thinking that was never closed is all that there is: nothing was said then.

    >>> said("<think>No.</think>\\nYes."), said("<think>No."), said("so</think> Yes.")
    ('Yes.', '', 'Yes.')
    """
    return _MARKS.sub("", _THINKING.sub("", reply)).strip()


def plain(reply: str) -> str:
    """`said`, in lower case and compatibility form, without markdown, role and leading marks.

    Lines stay lines, since a list is told by them; blanks within a line become one.

    >>> plain("**Assistant:** I\\u2019m *sorry*,  no.")
    "i'm sorry, no."
    """
    # In this order: compatibility form makes a blank and an accent of an acute accent.
    text = unicodedata.normalize("NFKC", said(reply).translate(_QUOTES)).lower()
    text = _DECORATION.sub("", text)
    text = _FRONT.sub("", _ROLE.sub("", text.lstrip()))
    return re.sub(r"[^\S\n]+", " ", text).strip()
