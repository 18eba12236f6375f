"""Which cases an evaluation of models asks, and the asking itself."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sectow_fast.data.asked import TrainedOn
from sectow_fast.data.progress import progress
from sectow_fast.data.suites import OpenSuite, SuiteCase, SuiteSpec, open_suite
from sectow_fast.data.suites.in_words import refuse_pictures
from sectow_fast.data.suites.registry import sampled
from sectow_fast.data.suites.wording import Wording
from sectow_fast.evaluation.blank import control_of
from sectow_fast.evaluation.defences import defended
from sectow_fast.evaluation.records import JsonLines, digest, response_row
from sectow_fast.evaluation.repliers import Ask, Replier
from sectow_fast.serving.client import NothingAnswered
from sectow_fast.types import UserError


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The suites, opened and checked, with the cases that every model is asked.

    controls: {suite with blank pictures: the suite beside which it stands}, both of `suites`.
    """

    suites: Mapping[str, OpenSuite]
    cases: Mapping[str, Sequence[SuiteCase]]
    notes: Sequence[str]
    controls: Mapping[str, str]

    def all_cases(self) -> list[SuiteCase]:
        return [case for cases in self.cases.values() for case in cases]

    def identity(self) -> dict[str, Any]:
        """What identifies these cases, suite by suite."""
        out = {}
        for name, cases in self.cases.items():
            text = "\n".join(f"{case.id} {digest(case)}" for case in cases)
            out[name] = {
                "split": self.suites[name].split,
                "cases": len(cases),
                "digest": hashlib.sha256(text.encode()).hexdigest()[:16],
            }
        return out


def open_suites(
    texts: Sequence[str],
    *,
    wording: Wording,
    limit: int,
    seed: int,
    skip_broken: bool = False,
    text_only: bool = False,
    blind: str = "",
    blank_control: bool = False,
) -> Asked:
    """Open and check every suite that was named (NAME[:SPLIT]=FOLDER).

    limit: prompts drawn from each suite, by prompt and by `seed`; 0 takes all. skip_broken: leave
    out, and count in a note, the cases whose pictures cannot be shown. text_only: show the suites'
    words in place of pictures. blind: a model that takes none, "" for no such. blank_control: each
    suite that shows pictures has one beside it whose pictures are blank. UserError names the first
    suite or row that is not as it should be. Of the pictures that cannot be shown it names the
    first 100 with their rows, one line each, and counts the rest.
    """
    suites: dict[str, OpenSuite] = {}
    cases: dict[str, list[SuiteCase]] = {}
    notes: list[str] = []
    controls: dict[str, str] = {}
    for text in texts:
        suite = open_suite(SuiteSpec.parse(text), wording=wording, text_only=text_only)
        name = suite.name
        if name in suites:
            raise UserError(f"--suite {text}: found {name} again, expected each suite once")
        suites[name] = suite
        every = suite.checked(notes, skip_broken=skip_broken)
        if blind:
            refuse_pictures(name, every, model=f"--model {blind}", setting="--text-only")
        if note := suite.note(len(every)):
            notes.append(note)
        drawn = sampled(every, limit, f"{seed}/{name}") if limit else every
        if len(drawn) < len(every):
            notes.append(f"{name}: {len(drawn)} of {len(every)} cases, one per prompt")
        cases[name], note = suite.whole(drawn, skip_broken=skip_broken)
        notes += [note] if note else []
        if blank_control and (found := control_of(suite, cases[name])):
            control, shown = found
            suites[control.name], cases[control.name] = control, shown
            controls[control.name] = name
    return Asked(suites=suites, cases=cases, notes=notes, controls=controls)


def seen_in(taught: TrainedOn, asked: Asked, wording: Wording) -> dict[str, Any]:
    """{suites: {name: cases trained on}, seen: {suite: its cases that training asked too}}."""
    seen = {name: taught.seen(cases, wording) for name, cases in asked.cases.items()}
    return {"suites": dict(taught.suites), "seen": {k: n for k, n in seen.items() if n}}


@contextlib.contextmanager
def ended_after(found: Iterator[Any]) -> Iterator[None]:
    """Ends a generator where the loop over it is left early, and with it the requests it has
    open."""
    try:
        yield
    finally:
        if isinstance(found, Generator):
            found.close()


def ask_missing(
    row: str,
    asked: Asked,
    responses: JsonLines,
    *,
    replier: Replier,
    defence: str,
    wording: Wording,
    chunk: int,
) -> None:
    """Ask for a reply to every case that has none. Each reply is on disk as soon as it is there.

    row: the name of the model, and of the defence it stands behind. chunk: see `defended`.
    NothingAnswered where no case of the row has a reply then.
    """
    todo = [case for case in asked.all_cases() if case.id not in responses.rows]
    asks = [
        Ask(id=case.id, parts=case.parts, images=asked.suites[case.suite].images) for case in todo
    ]
    replies = defended(defence, replier, asks, wording, chunk=chunk)
    with progress(f"{row}: replies", len(todo)) as step, ended_after(replies):
        for number, reply in replies:
            responses.append(response_row(todo[number], reply, model=row))
            step()
    if todo and all(row["model_response"] is None for row in responses.rows.values()):
        raise NothingAnswered(
            f"{row}: found no reply to any of {len(responses.rows)} requests"
            f" ({responses.rows[todo[-1].id]['response_error']}), expected some; nothing was"
            " measured, and the same command asks again"
        )
