"""`python -m sectow_fast.evaluate`: an evaluation of models. Wiring only.

Models and suites go in, rates and a report come out.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sectow_fast import ctrl_c

if __name__ == "__main__":
    ctrl_c.end_quietly(ctrl_c.SAME_COMMAND)

from sectow_fast.cli import help_lines, load_named_plugins
from sectow_fast.data.asked import TrainedOn
from sectow_fast.data.suites.wording import Wording
from sectow_fast.evaluation.asking import Asked, ask_missing, open_suites, seen_in
from sectow_fast.evaluation.engines import replier_of
from sectow_fast.evaluation.export import check_exports, write_exports
from sectow_fast.evaluation.identity import blind_one, content_of
from sectow_fast.evaluation.judging import judge_missing, second_fields, unreadable_verdicts
from sectow_fast.evaluation.out_folder import (
    OutFolder,
    forget_failures,
    row_files,
    write_private,
)
from sectow_fast.evaluation.settings import FLAGS, Settings, named_models, parse
from sectow_fast.evaluation.tables import matched, row_summary
from sectow_fast.judges import EndpointJudge, JudgeSettings, make_judge
from sectow_fast.judges.base import Judge
from sectow_fast.judges.people import WithPeople, by_rule, people_words, with_people
from sectow_fast.run_folder import unwritten
from sectow_fast.serving.cache import AnswerCache
from sectow_fast.serving.client import NothingAnswered
from sectow_fast.types import UserError

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see train.py

USAGE = """usage: python -m sectow_fast.evaluate --model [NAME=]FOLDER ...
       --suite NAME[:SPLIT]=FOLDER ... --out DIR
       [--judge guard|rule] [--engine torch|sglang|endpoint]
       [--defence NAME ...] [--second-judge NAME] [--export NAME ...]
       [--plugins FILE.py[,MODULE]] [--name VALUE ...]

The same --out goes on where a stopped evaluation ended. Settings (name = default):
"""
CHUNK = 64  # requests that a defence of two passes asks before it asks again about their replies


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 1: a model or judge answered nothing, or the disk is full; 2: a mistake in
    what was given; 130: stopped. After 1 and 130 the same command goes on."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if "-h" in arguments or "--help" in arguments or not arguments:
            load_named_plugins(arguments)
            print(USAGE + "\n".join(help_lines(FLAGS)))
            return 0 if arguments else 2
        settings = parse(arguments)
        try:
            return evaluate(settings)
        except OSError as error:
            words = unwritten(error, Path(settings.out))
            if words is None:
                raise
            print(f"error: {words}, and give the same command again", file=sys.stderr)
            return 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(ctrl_c.SAME_COMMAND, file=sys.stderr)
        return 130


def evaluate(settings: Settings) -> int:
    """Check everything that can be checked, then ask, judge and write."""
    models = named_models(settings)
    wording = Wording.load(Path(settings.wording) if settings.wording else None)
    folders = [Path(path) for path in models.values()] if settings.engine != "endpoint" else []
    asked = open_suites(
        settings.suite,
        wording=wording,
        limit=settings.limit,
        seed=settings.seed,
        skip_broken=settings.skip_broken,
        text_only=settings.text_only,
        blind=blind_one(folders, engine=settings.engine),
        blank_control=settings.blank_control,
    )
    infos = [suite.suite.info for suite in asked.suites.values()]
    check_exports(settings.export, infos, private=settings.private)
    if settings.threads:
        import torch

        torch.set_num_threads(settings.threads)
    # A judge that cannot be reached must not leave a folder behind.
    judge = make_judge(judge_settings(settings.judge, settings))
    second = None
    if settings.second_judge:
        second = make_judge(judge_settings(settings.second_judge, settings))
    people = with_people(judge.id, settings.judge_bench)
    out = OutFolder(Path(settings.out))
    for one in (judge, second):
        if isinstance(one, EndpointJudge):
            one.client.cache = AnswerCache(out.path / "judge-cache.sqlite")
    out.claim(
        {
            "suites": asked.identity(),
            "judge": judge.id,
            "engine": settings.engine,
            "max-new-tokens": settings.max_new_tokens,
            "wording": vars(wording),
            "seed": settings.seed,
            **({"max-pixels": settings.max_pixels} if settings.max_pixels is not None else {}),
        }
    )
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    for name, path in models.items():
        try:
            for row in evaluate_model(name, path, settings, asked, out, judge, second, wording):
                rows.append(row)  # it stays where a later one fails
        except NothingAnswered as error:
            failed.append(str(error))  # the other models may do better
    if rows or not failed:
        _write_results(rows, settings, asked, out, judge, second, people)
    for words in failed:
        print(f"error: {words}", file=sys.stderr)
    return 1 if failed else 0


def _write_results(
    rows: list[dict[str, Any]],
    settings: Settings,
    asked: Asked,
    out: OutFolder,
    judge: Judge,
    second: Judge | None,
    people: Sequence[WithPeople],
) -> None:
    """The summary, with the rows of earlier commands, and the report."""
    infos = [suite.suite.info for suite in asked.suites.values()]
    every = out.with_earlier_rows(rows)
    summary = {
        "schema": 1,
        "judge": judge.id,
        "with_people": [vars(one) | {"words": one.words()} for one in people],
        "second_judge": second.id if second else None,
        "orr_counts": settings.orr,
        "engine": settings.engine,
        "max_new_tokens": settings.max_new_tokens,
        "suites": {
            info.name: {
                "title": info.title,
                "licence": info.licence,
                "redistributes": info.redistributes,
                "plain": asked.suites[info.name].is_plain,
                "control_of": asked.controls.get(info.name),
                **asked.identity()[info.name],
            }
            for info in infos
        },
        "notes": list(asked.notes),
        "rows": every,
        "matched": matched(every),
        "versions": _versions(),
    }
    write_private(out.path / "summary.json", json.dumps(summary, indent=1) + "\n")
    from sectow_fast.report.models import print_table, write_report

    report = write_report(out.path, reveal=settings.reveal, private=settings.private)
    print_table(summary)
    for note in asked.notes:
        print(f"note: {note}")
    print(f"done: {report}")


def evaluate_model(
    name: str,
    path: str,
    settings: Settings,
    asked: Asked,
    out: OutFolder,
    judge: Judge,
    second: Judge | None,
    wording: Wording,
) -> Iterator[dict[str, Any]]:
    """One row per defence. The model is loaded, or served, only where a reply is missing.

    NothingAnswered where the model or a judge answers nothing. A row whose second judge fails comes
    first, without that judge.
    """
    counts = settings.orr
    taught = TrainedOn.read(Path(path)) if settings.engine != "endpoint" else None
    weights = {"served": path} if settings.engine == "endpoint" else content_of(Path(path))
    with contextlib.ExitStack() as stack:
        replier = None
        for defence in dict.fromkeys(settings.defence):
            row = name if defence == "none" else f"{name} + {defence}"
            folder = out.row(row, model=path, weights=weights)
            with row_files(folder) as (responses, records):
                if settings.retry_unknown:
                    forget_failures(responses, records)
                cases = asked.all_cases()
                if all(case.id in responses.rows for case in cases):
                    print(f"{row}: {len(cases)} replies were there already", file=sys.stderr)
                else:
                    if replier is None:
                        replier = stack.enter_context(
                            replier_of(path, settings, log=out.path / "sglang.log")
                        )
                    ask_missing(
                        row,
                        asked,
                        responses,
                        replier=replier,
                        defence=defence,
                        wording=wording,
                        chunk=max(CHUNK, 4 * settings.batch),
                    )
                judge_missing(row, asked, responses, records, judge=judge)
                found = [records.rows[case.id] for case in cases]
                summary: dict[str, Any] = {"folder": row, "model": name, "defence": defence}
                summary |= row_summary(
                    found,
                    partial=counts == "partial",
                    rule=by_rule(judge.id),
                    plain=[name for name, suite in asked.suites.items() if suite.is_plain],
                    controls=asked.controls,
                )
                summary["trained_on"] = None if taught is None else seen_in(taught, asked, wording)
                summary |= {"orr_counts": counts, "second_judge": None, "agreement": None}
                if unread := unreadable_verdicts(found):
                    summary["unreadable"] = unread
                    print(f"{row}: {unread['words']}", file=sys.stderr)
                failure = None
                if second is not None:
                    try:
                        summary |= second_fields(row, folder, settings, asked, records, second)
                    except NothingAnswered as error:
                        failure = error
            for note in write_exports(
                out.path / "export",
                settings.export,
                row,
                asked,
                found,
                partial=counts == "partial",
                people=people_words(judge.id, settings.judge_bench),
            ):
                print(f"note: {note}", file=sys.stderr)
            yield summary
            if failure is not None:
                raise failure


def judge_settings(name: str, settings: Settings) -> JudgeSettings:
    """The first or the second judge's settings."""
    return JudgeSettings(
        name=name,
        setting="--judge",
        url=settings.judge_url,
        model=settings.judge_model,
        format=settings.judge_format,
        controversial=settings.controversial,
        key_env=settings.judge_key_env,
        timeout=settings.timeout,
        retries=settings.retries,
        concurrency=settings.concurrency,
    )


def _versions() -> dict[str, str]:
    import torch
    import transformers

    import sectow_fast

    return {
        "sectow_fast": sectow_fast.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


if __name__ == "__main__":
    ctrl_c.end_soon(ctrl_c.SAME_COMMAND)
    sys.exit(main())
