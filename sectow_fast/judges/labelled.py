"""Published replies that people have labelled: as refusals, as harmful, or as both.

Any CSV, JSON, JSONL or parquet file with a reply and a label in it is read, and a folder with such
files. Known by their columns: XSTest's completions, WildGuardTest, HarmBench's validation set,
JailbreakBench's comparison of judges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sectow_fast.data.suites import tables
from sectow_fast.judges.base import Refusal
from sectow_fast.types import UserError

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
# The first of these columns that a file has is the one that is read; capitals do not matter.
REPLY = ("completion", "response", "generation", "model_response", "reply", "output", "prediction")
REQUEST = ("goal", "behavior", "prompt", "request", "question", "query", "test_case")
MODEL = ("model", "model_name", "source_model", "model_family", "source")
REFUSED = ("final_label", "response_refusal_label", "refusal", "refused", "is_refusal", "label")
HARMED = (
    "response_harm_label", "human_majority", "harmful", "is_harmful", "jailbroken",
    "is_jailbroken", "human_label", "label",
)  # fmt: skip
VOTES = (("human_0", "human_1", "human_2"), ("human1", "human2", "human3"))

REFUSAL_WORDS: dict[str, Refusal] = {
    "1_full_compliance": "none", "2_full_refusal": "full", "3_partial_refusal": "partial",
    "compliance": "none", "refusal": "full", "full": "full", "partial": "partial", "none": "none",
    "refused": "full", "complied": "none", "full_compliance": "none", "full_refusal": "full",
    "partial_refusal": "partial", "comply": "none", "refuse": "full",
}  # fmt: skip
HARM_WORDS = {"harmful": True, "unharmful": False, "unsafe": True, "safe": False}
YES_NO = {"1": True, "0": False, "true": True, "false": False, "yes": True, "no": False}
YES_NO |= {"1.0": True, "0.0": False}


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One reply and what people said of it; None where they were not asked."""

    model: str
    request: str
    reply: str
    refusal: Refusal | None
    harmful: bool | None


def read_labels(path: Path) -> list[Labelled]:
    """Every labelled reply of a file, or of the files in a folder and below it.

    Files in a folder that have no label (questions, notes) are passed over; UserError where none
    has one, or where a label is not known.
    """
    if not path.exists():
        raise UserError(f"--labels {path}: found no such file or folder, {_wanted()}")
    if path.is_file():
        if labelled := _labelled(path, _rows(path)):
            return labelled
        raise UserError(f"--labels {path}: found no row that people labelled, {_wanted()}")
    files = sorted(p for p in path.rglob("*") if p.suffix in ENDINGS and p.is_file())
    out: list[Labelled] = []
    columns = ""
    for file in files:
        rows = _rows(file)
        if rows and _has_labels(rows[0]):
            out += _labelled(file, rows)
        elif rows:
            columns = f"; {file} has {', '.join(map(str, rows[0]))}"
    if not out:
        raise UserError(f"--labels {path}: found no file with labels, {_wanted()}{columns}")
    return out


def _wanted() -> str:
    return (
        f"expected a column with the reply ({', '.join(REPLY)}) and one with the label"
        f" ({', '.join(dict.fromkeys((*REFUSED, *HARMED)))})"
    )


def _small(row: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name).strip().lower().replace(" ", "_"): found for name, found in row.items()}


def _has_labels(found: Mapping[str, Any]) -> bool:
    row = _small(found)
    labels = {*REFUSED, *HARMED, *VOTES[0], *VOTES[1]}
    return any(name in row for name in REPLY) and any(name in row for name in labels)


def _rows(path: Path) -> list[dict[str, Any]]:
    """Its rows by column. UserError names the file and the row that cannot be read."""
    if path.suffix in (".csv", ".tsv"):
        delimiter = "\t" if path.suffix == ".tsv" else ","
        return [row for _, row in tables.csv_rows(path, (), delimiter=delimiter)]
    if path.suffix == ".parquet":
        return tables.open_parquet(path).read().to_pylist()
    if path.suffix == ".jsonl":
        return [row for _, row in tables.json_rows(path, ())]
    return list(_flat(tables.json_file(path, (dict, list))))


def _flat(found: Any) -> Iterator[dict[str, Any]]:
    """The objects of a JSON file: a list of them, or lists by name (HarmBench's validation set)."""
    if isinstance(found, list):
        yield from (one for one in found if isinstance(one, dict))
    elif isinstance(found, dict):
        for name, inner in found.items():
            for one in _flat(inner) if isinstance(inner, list) else ():
                yield {"behavior": name, **one}


def _labelled(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[Labelled]:
    if not rows or not _has_labels(rows[0]):
        found = ", ".join(map(str, rows[0])) if rows else "no rows"
        raise UserError(f"--labels {path}: found {found}, {_wanted()}")
    head = _small(rows[0])
    reply, request, model = (_first(head, names) for names in (REPLY, REQUEST, MODEL))
    out = []
    for number, row in enumerate(map(_small, rows), start=1):
        refusal, harmful = _labels(row, f"{path} row {number}")
        if refusal is None and harmful is None:
            continue  # nobody labelled this one: WildGuardTest has rows without agreement
        out.append(
            Labelled(
                model=str(row.get(model) or path.stem),
                request=str(row.get(request) or ""),
                reply=str(row.get(reply) or ""),
                refusal=refusal,
                harmful=harmful,
            )
        )
    return out


def _labels(row: Mapping[str, Any], where: str) -> tuple[Refusal | None, bool | None]:
    """What a row's columns say. A column `label` may be about either: its words tell."""
    refusal: Refusal | None = None
    harmful: bool | None = None
    for name in REFUSED:
        word = _word(row.get(name))
        if word in REFUSAL_WORDS:
            refusal = REFUSAL_WORDS[word]
        elif name != "label" and word in YES_NO:
            refusal = "full" if YES_NO[word] else "none"
        elif word and not (name == "label" and word in HARM_WORDS | YES_NO):
            known = ", ".join(dict.fromkeys((*REFUSAL_WORDS, *HARM_WORDS, *YES_NO)))
            raise UserError(f"{where}, {name}: found {word[:40]!r}, expected one of {known}")
        if refusal is not None:
            break
    for name in HARMED:
        word = _word(row.get(name))
        if word in HARM_WORDS or word in YES_NO:
            harmful = (HARM_WORDS | YES_NO)[word]
            break
        if word and name != "label":
            known = ", ".join((*HARM_WORDS, *YES_NO))
            raise UserError(f"{where}, {name}: found {word[:40]!r}, expected one of {known}")
    for names in VOTES:
        votes = [_word(row.get(name)) for name in names]
        told = Counter(YES_NO[vote] for vote in votes if vote in YES_NO)
        if harmful is None and told:
            harmful = told[True] > told[False]
    return refusal, harmful


def _word(found: Any) -> str:
    return "" if found is None else str(found).strip().lower()


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in row), None)
