"""Numbers in a reply, by value: signs, thousands, fractions, powers of ten, percent and units."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

# What a unit is worth in the first of its kind. Capitals matter where both are a unit (mW, MW).
_KINDS: tuple[dict[str, float], ...] = (
    {"m": 1, "metre": 1, "meter": 1, "km": 1e3, "kilometre": 1e3, "kilometer": 1e3}
    | {"cm": 1e-2, "mm": 1e-3, "um": 1e-6, "nm": 1e-9},
    {"kg": 1, "kilogram": 1, "g": 1e-3, "gram": 1e-3, "mg": 1e-6, "t": 1e3},
    {"s": 1, "second": 1, "ms": 1e-3, "min": 60, "minute": 60, "h": 3600, "hour": 3600},
    {"l": 1, "litre": 1, "liter": 1, "ml": 1e-3},
    {"v": 1, "mv": 1e-3, "MV": 1e6, "kv": 1e3},
    {"a": 1, "ma": 1e-3},
    {"w": 1, "mw": 1e-3, "MW": 1e6, "kw": 1e3},
    {"j": 1, "mj": 1e-3, "MJ": 1e6, "kj": 1e3},
)
_UNITS = {unit: (next(iter(units)), worth) for units in _KINDS for unit, worth in units.items()}
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+,\d{1,2}(?!\d)|\d*\.\d+|\d+)"
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>[-+]?)[$€£¥]?(?P<digits>{_PLAIN})(?:e(?P<e>[-+]?\d{{1,4}})\b)?"
    r"(?:\s?\^\s?\{?(?P<power>[-+]?\d{1,4})\}?)?"
    r"(?:\s?[x×*]\s?10\s?\^\s?\{?(?P<ten>[-+]?\d{1,4})\}?)?"
    rf"(?:\s?/\s?(?P<below>{_PLAIN})(?![\d/]))?"
    r"\s?(?P<unit>%|percent\b|[A-Za-zµ]+\b)?",
    re.IGNORECASE,
)
PERCENT = ("%", "percent")
LONGEST = 3  # letters of a unit's sign: a longer word may have a plural
TWO_DECIMALS = 2  # to which MMMU rounds before it compares
NEAR = 0.02  # the share by which a number under 1 may differ


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number in the first unit of its kind, and as it is written. kind: "%", that unit, or ""."""

    number: float
    kind: str
    written: float


def values_in(text: str) -> list[Value]:
    """Every number of a text, in order. One with a hyphen between words has no sign."""
    found = []
    for match in _NUMBER.finditer(text):
        value = _value(match)
        if value is not None and math.isfinite(value.number):
            found.append(value)
    return found


def value_of(answer: str) -> Value | None:
    """The value of an answer that is a number and nothing else; None for any other."""
    match = _NUMBER.fullmatch(answer.strip())
    if match is None:
        return None
    unit = match["unit"]
    known = not unit or unit.lower() in PERCENT or _unit(unit) is not None
    return _value(match) if known else None


def equal_values(found: Value, wanted: Value) -> bool:
    """The same to two decimals, as MMMU compares.

    A share may be told in percent. A unit is converted where both have one of its kind.
    """
    numbers = [found.number]
    if (found.kind == "%") != (wanted.kind == "%"):
        numbers += [found.number / 100 if found.kind == "%" else found.number * 100]
    elif found.kind != wanted.kind and "" not in (found.kind, wanted.kind):
        return False
    elif found.kind != wanted.kind:
        # Only one has a unit: the numbers are compared as they are written.
        return _close(found.written, wanted.written)
    return any(_close(number, wanted.number) for number in numbers)


def _close(a: float, b: float) -> bool:
    # Two decimals say nothing of a small number: it must be near by its own size too.
    return round(a, TWO_DECIMALS) == round(b, TWO_DECIMALS) and (
        abs(b) >= 1 or not b or abs(a - b) <= NEAR * abs(b)
    )


def _unit(word: str) -> tuple[str, float] | None:
    word = word.replace("µ", "u").replace("μ", "u")
    plural = word.lower().removesuffix("s") if len(word) > LONGEST else ""
    return _UNITS.get(word) or _UNITS.get(word.lower()) or _UNITS.get(plural)


def _digits(text: str) -> float:
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", text):
        return float(text.replace(",", ""))
    return float(text.replace(",", "."))


def _value(match: re.Match[str]) -> Value | None:
    number = _digits(match["digits"])
    try:
        number **= int(match["power"] or 1)
        number *= 10.0 ** (int(match["e"] or 0) + int(match["ten"] or 0))
    except (OverflowError, ZeroDivisionError):
        return None
    if match["below"]:
        below = _digits(match["below"])
        if not below:
            return None
        number /= below
    number = -number if match["sign"] == "-" else number
    word = match["unit"] or ""
    if word.lower() in PERCENT:
        return Value(number=number, kind="%", written=number)
    kind, worth = _unit(word) or ("", 1.0)
    return Value(number=number * worth, kind=kind, written=number)
