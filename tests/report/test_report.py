from __future__ import annotations

import json

import pytest
from synthetic import NASTY, SECRET, write_run

from sectow_fast.report.console import LiveConsole
from sectow_fast.report.html import write_report
from sectow_fast.report.metrics import MetricsLog, read
from sectow_fast.report.results import interval, results_page
from sectow_fast.types import UserError


def test_the_report_shows_the_summarys_figures_and_needs_no_network(tmp_path):
    folder = write_run(tmp_path / "run")
    page = write_report(folder).read_text()
    summary = json.loads((folder / "summary.json").read_text())
    for row in (summary["rounds"][0], summary["rounds"][-1]):
        assert f"{100 * row['asr']['mean']['value']:.1f}" in page
    assert 'src="http' not in page and 'href="http' not in page
    assert all(path.stat().st_size > 5000 for path in (folder / "plots").glob("*.png"))


def test_attack_words_are_hidden_until_asked_for_and_always_escaped(tmp_path):
    folder = write_run(tmp_path / "run")
    assert f"captain &lt;typo&gt; {SECRET}" not in write_report(folder).read_text()
    shown = write_report(folder, reveal=True).read_text()
    assert f"&lt;typo&gt; {SECRET}" in shown and NASTY not in shown


def test_a_torn_last_line_is_dropped_and_a_broken_one_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"b": 2}\n{"c":')
    rows = read(path)
    assert list(rows) == [{"a": 1}, {"b": 2}]
    path.write_text('{"a": 1}\nnonsense\n{"b": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        list(read(path))


def test_the_log_is_cut_back_to_a_checkpoint(tmp_path):
    log = MetricsLog(tmp_path / "m.jsonl", tensorboard=False)
    log.append({"loss": 1.0})
    kept = log.bytes
    log.append({"loss": float("nan")})
    log.truncate(kept)
    log.append({"loss": float("nan")})
    log.close()
    assert list(read(tmp_path / "m.jsonl")) == [{"loss": 1.0}, {"loss": None}]


def test_plain_console_says_phases_rounds_and_events(capsys):
    with LiveConsole(title="t", rounds=1, reveal=False, plain=True) as console:
        console.phase(1, "defend", 2)
        console.step({"round": 1, "phase": "defend", "step": 0, "reward": {"total": 0.5}})
        console.event({"kind": "over-refusal", "message": "ORR 5 %", "values": {}})
        console.note("words", attack=SECRET)
    out = capsys.readouterr().out
    assert "defender GRPO" in out and "ORR 5 %" in out and SECRET not in out


def test_results_page_has_a_row_a_variant_with_intervals(tmp_path):
    with pytest.raises(UserError, match="no default-seed"):
        results_page(tmp_path)
    for seed in (0, 1, 2):
        folder = write_run(tmp_path / f"default-seed{seed}", seed=seed)
        summary = json.loads((folder / "summary.json").read_text())
        for row in summary["rounds"]:
            row["asr"]["figstep"] = next(iter(row["asr"].values()))
            row.setdefault("asr_t1", row["asr"])
            for kind in ("asr", "asr_t1", "orr", "accuracy"):
                row[kind].setdefault("mean", next(iter(row[kind].values())))
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "report.html").touch()
    write_run(tmp_path / "default-seed3", seed=3)  # not finished: no report
    page = results_page(tmp_path)
    assert "| SecTOW (default) | 3 |" in page and page.count("### Seed") == 3
    assert "What each part is worth" in page
    assert interval([0.1, 0.1, 0.1]) == "10.0 ± 0.0"
    assert interval([0.0, 0.1]) == "5.0 ± 63.6"
