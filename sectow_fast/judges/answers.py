"""Was a short answer right? A refusal is looked for before an option is, and nothing is guessed.

The official MMMU-Pro parser reads "I'm sorry" as option I of ten, and draws a letter at random
where it finds none; both would turn refusals into accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sectow_fast.judges.rule import refusal_of

# A letter that is a word of English (I, A) must end the line or be followed by a mark.
_LETTER = r"([B-HJ-Z]\b(?!')|[AI](?=[).,:*]|\s*$))"
_STATED = re.compile(
    rf"\b(?i:answer is|answer would be|answer:|option is|choice is|option|choice):?\s*\(?\*{{0,2}}"
    rf"{_LETTER}",
    re.MULTILINE,
)
_BRACKETED = re.compile(r"\(([A-Z])\)")
_LEADING = re.compile(r"^[\s\"'*(\[]*([A-Z])(?:[)\].:,*]|\s*$)")
SHORT = 20  # words: a longer reply must state its answer, not merely mention it


def choice_of(reply: str, options: Sequence[str]) -> str | None:
    """The option's letter, or None: a refusal, no option, or more than one.

    >>> ten = [f"thing {i}" for i in range(10)]
    >>> choice_of("I'm sorry, I cannot tell.", ten) is None, choice_of("(B) thing 1", ten)
    (True, 'B')
    >>> choice_of("The answer is C.", ten), choice_of("thing 3", ten), choice_of("I", ten)
    ('C', 'D', 'I')
    """
    if refusal_of(reply) == "full":
        return None
    letters = [chr(65 + i) for i in range(len(options))]
    text = reply.strip()
    for pattern in (_STATED, _BRACKETED, _LEADING):
        written = pattern.findall(text)
        found = set(written).intersection(letters)
        if len(found) == 1:
            return found.pop()
        if pattern is _STATED and found:
            # It weighs several: the last one that it states is meant.
            return written[-1] if written[-1] in letters else None
    words = _words(text)
    named = {
        letter
        for letter, option in zip(letters, options, strict=True)
        if _words(option) and f" {_words(option)} " in f" {words} "
    }
    # "red" is inside "dark red": the longest option that is there is meant.
    best = {
        a
        for a in named
        if not any(
            a != b and f" {_words(options[ord(a) - 65])} " in f" {_words(options[ord(b) - 65])} "
            for b in named
        )
    }
    return best.pop() if len(best) == 1 and len(words.split()) <= SHORT else None


def open_right(reply: str, answers: Sequence[str]) -> bool:
    """Whether a reply in words gives one of the right answers: equal, equal as a number, or named.

    >>> open_right("It is 3.50 metres", ["3.5"]), open_right("about 35", ["3.5"])
    (True, False)
    """
    if refusal_of(reply) == "full":
        return False
    text = _words(reply)
    numbers = _numbers(reply)
    for answer in answers:
        wanted = _words(answer)
        if not wanted:
            continue
        if text == wanted:
            return True
        value = _numbers(answer)
        if len(value) == 1 and re.fullmatch(r"[-+$]?[\d.,]+%?", answer.strip()):
            if numbers and abs(numbers[-1] - value[0]) <= 1e-3 * max(1.0, abs(value[0])):
                return True
        elif f" {wanted} " in f" {text} " and len(text.split()) <= SHORT:
            return True
    return False


def is_right(reply: str, answer: str, options: Sequence[str]) -> bool:
    """Against a letter where there are options, against the lines of `answer` elsewhere."""
    if options:
        return choice_of(reply, options) == answer.strip()
    return open_right(reply, answer.split("\n"))


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+(?:[.'][^\W_]+)*", text.lower()))


def _numbers(text: str) -> list[float]:
    found = re.findall(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?", text.lower())
    return [float(one.replace(",", "")) for one in found]
