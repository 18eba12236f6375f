"""The page of results has one row per variant, with intervals over its seeds."""

from __future__ import annotations

import pytest
from synthetic import write_run

from sectow_fast.report.results import VARIANTS, commands, main, over_seeds, results_page
from sectow_fast.report.rundata import read_summary
from sectow_fast.types import UserError


def finished(folder, seed, **more):
    write_run(folder, seed=seed, **more)
    (folder / "report.html").touch()
    return read_summary(folder / "summary.json")


def test_the_page_is_made_of_the_summaries_figures(tmp_path):
    default = [finished(tmp_path / f"default-seed{seed}", seed) for seed in range(3)]
    for seed in range(3):
        finished(tmp_path / f"sft-seed{seed}", seed, level=9.0)
    write_run(tmp_path / "default-seed3", seed=3)  # not finished: it has no report
    page = results_page(tmp_path)
    asr = over_seeds([summary.rounds[-1].mean("asr").value for summary in default])
    row = next(line for line in page.splitlines() if line.startswith("| SecTOW (default) | 3 |"))
    assert f" | {asr} | " in row and row.endswith("| 84.8 ± 0.0 | 27.0 ± 0.0 |")
    leak = over_seeds([summary.rounds[-1].leak.mean.value for summary in default])
    head = next(line for line in page.splitlines() if line.startswith("| variant | seeds |"))
    assert f" | {leak} | " in row and row.count("|") == head.count("|")
    assert "suites of 300 held-out cases" in page
    sft = [line for line in page.splitlines() if line.startswith("| baseline: SFT defender |")]
    assert len(sft) == 2 and sft[1].startswith("| baseline: SFT defender | **")
    rate = default[1].rounds[0].rates["asr"]["figstep"]
    shown = f"{100 * rate.value:.1f} ({100 * rate.low:.1f}-{100 * rate.high:.1f})"
    assert f"| asr figstep | {shown} |" in page.partition("### Seed 1: 154 s")[2]
    assert page.count("### Seed") == 3


def test_runs_without_a_default_one_are_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="no default-seed"):
        results_page(tmp_path)
    assert main(["--runs", str(tmp_path), "--out", str(tmp_path / "page.md")]) == 2
    assert "give --run first" in capsys.readouterr().err


def test_the_interval_is_students_over_the_seeds():
    assert over_seeds([0.1, 0.1, 0.1]) == "10.0 ± 0.0"
    assert over_seeds([0.0, 0.1]) == "5.0 ± 63.6"
    assert over_seeds([0.25]) == "25.0"


def test_default_runs_come_first_and_the_others_start_from_their_cold_starts(tmp_path):
    found = list(commands(tmp_path, [1, 2]))
    assert [folder.name for folder, _ in found[:2]] == ["default-seed1", "default-seed2"]
    assert len(found) == 2 * len(VARIANTS)
    start = str(tmp_path / "default-seed2" / "coldstart" / "defender")
    assert all(start in arguments for folder, arguments in found[3::2])
