"""Text on its way to a file: whole lines, no half characters. And the words of a text.

JSON's escapes and Windows' names can leave half of a UTF-16 surrogate pair in a string. No encoder
writes such a half, so a file of rows either escapes it or holds U+FFFD in its place.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

import regex

HALF = re.compile("[\ud800-\udfff]")
# JSON itself escapes every other character at which str.splitlines ends a line.
_UNSAFE = re.compile("[\x85\u2028\u2029\ud800-\udfff]")
# What a reader does not see (zero-width blanks, joiners, soft hyphens, directions, ...).
UNSEEN = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
# Characters of scripts that put no blank between words, by their class of line breaking: ideographs
# and kana, and those of Thai, Lao, Khmer, Burmese and their like; and three scripts by name.
UNSPACED = regex.compile(
    r"([\p{Line_Break=ID}\p{Line_Break=CJ}\p{Line_Break=SA}\p{Tibetan}\p{Javanese}\p{Balinese}])"
)


def json_text(value: Any, **how: Any) -> str:
    r"""JSON in readable letters; \x85, U+2028, U+2029 and halves of pairs are written as \uXXXX.

    So a row stays one line for any reader, and halves of pairs come back as they were (a high half
    with its low half behind it comes back as the character they stand for). how: settings of
    `json.dumps`.

    >>> json_text({"a": "\u2028é"})
    '{"a": "\\u2028é"}'
    """
    text = json.dumps(value, ensure_ascii=False, **how)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def mended(text: str) -> tuple[str, int]:
    r"""(text that every encoder writes, how many lone halves became U+FFFD); pairs are joined.

    >>> mended("a\ud83d\ude00 b\ud83d") == ("a\U0001f600 b\ufffd", 1)
    True
    """
    if text.isascii() or not HALF.search(text):
        return text, 0
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return HALF.subn("\ufffd", joined)


def words(text: str) -> list[str]:
    """The words of a text as a reader sees them: NFKC, without characters that show nothing.

    Where a script puts no blanks between words, each of its characters is a word of its own.

    >>> words("join  ba\u200bdo"), words("\uff4aoin 折り紙")
    (['join', 'bado'], ['join', '折', 'り', '紙'])
    """
    if text.isascii():
        return text.split()
    seen = unicodedata.normalize("NFKC", UNSEEN.sub("", text))
    return UNSPACED.sub(r" \1 ", UNSEEN.sub("", seen)).split()
