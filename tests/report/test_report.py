"""The page of a run shows what the run wrote, and neither more nor less than was asked for."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from synthetic import EVENT, NASTY, SECRET, write_run

from sectow_fast.report import html, models
from sectow_fast.report.harm import league, leak_styles, proxy_gap
from sectow_fast.report.html import cards, page_of, write_report
from sectow_fast.report.round_table import round_table
from sectow_fast.report.rundata import (
    attackers,
    current_success,
    load,
    percent,
    phase_seconds,
    style_rows,
)
from sectow_fast.rounds import HarvestRecord, RoundRecord, StyleCount
from sectow_fast.types import Rate, UserError, wilson


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def page(folder):
    return write_report(folder).read_text()


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "run")


def styled(round: int, **styles: tuple[int, int]) -> RoundRecord:
    counts = {name: StyleCount(won=won, tried=tried) for name, (won, tried) in styles.items()}
    harvest = HarvestRecord(kept=0, dropped={}, styles=counts)
    return RoundRecord(round=round, rates={}, rates_t1={}, harvest=harvest)


def test_the_page_shows_the_summarys_figures(folder, page):
    summary = json.loads((folder / "summary.json").read_text())
    for row in summary["rounds"]:
        for kind in ("asr", "asr_t1", "orr", "accuracy"):
            mean = row[kind]["mean"]
            assert f"<td>{100 * mean['value']:.1f}" in page
            assert f"{100 * mean['low']:.1f}–{100 * mean['high']:.1f}" in page
        assert f"<td>{row.get('kept', '–')}" in page
    assert "2 unknown" in page and "harvest" in page and "seed = 0" in page


def test_the_page_names_the_judge_and_calls_no_rate_of_the_rule_an_asr(copy, page):
    assert "Judged by a judge that the run did not name; its agreement is not known" in page
    assert "Attack success rate (ASR)" in page and "Mean ASR" in page
    summary = json.loads((copy / "summary.json").read_text())
    for row in summary["rounds"]:
        row.pop("leak", None)  # no chance of harm is computed beside the rule
    summary["judged"] = {"by": "rule", "people": "kappa 0.83", "attacks": "not refused"}
    (copy / "summary.json").write_text(json.dumps(summary))
    ours = write_report(copy).read_text()
    assert "Judged by rule; kappa 0.83" in ours and "Mean not refused" in ours
    assert "Not refused, by suite and round" in ours and "<th>Not refused, mean" in ours
    assert "this is no attack success rate" in ours
    assert "ASR" not in ours and "Attack success" not in ours


def test_the_page_needs_nothing_from_elsewhere(folder, page):
    assert 'src="http' not in page and 'href="http' not in page and "<script" not in page
    assert len(list((folder / "plots").glob("*.png"))) == page.count("<figure") == 11


def test_attack_words_are_hidden_until_asked_for_and_always_escaped(folder, page):
    assert SECRET not in page
    shown = page_of(load(folder), {}, reveal=True)
    assert f"pretend captain &lt;typo&gt; {SECRET}" in shown and NASTY not in shown


def test_an_event_is_shown_once_and_escaped(page):
    assert page.count("harmless share to 0.75 &lt;b&gt;") == 1 and EVENT.message not in page


def test_the_cards_compare_the_last_round_with_the_first(folder):
    found = {card.label: card for card in cards(load(folder).rounds)}
    assert found["Trained attacker"].value == "3.1×"
    assert found["Trained attacker"].remark == "84.8 % against 27.0 %"
    assert found["FigStep ASR"].before == "94.0" and found["Accuracy"].remark.endswith(" points")
    assert cards(load(folder).rounds[:1])[0].before == ""


def test_the_first_screen_has_the_leak_and_the_attackers_success_on_the_present_defender(folder):
    rounds = load(folder).rounds
    found = {card.label: card for card in cards(rounds)}
    success = found["Attacker succeeds"]
    assert (success.before, success.value) == ("48.0", "17.2 %")  # trained, rounds 1 and 3
    mean, worst = found["Chance of harm, mean"], found["Worst attack on an object"]
    assert (mean.before, mean.value) == ("50.0", "0.53 %") and "10 objects" in mean.remark
    assert worst.remark.endswith(f"{100 * max(rounds[-1].leak.worst):.1f} % at most")
    bare = [dataclasses.replace(record, leak=None, attacker_success={}) for record in rounds]
    assert not {"Attacker succeeds", "Chance of harm, mean"} & {card.label for card in cards(bare)}


def test_self_instruct_is_the_attacker_where_none_was_trained():
    success = {"self-instruct": wilson(9, 10), "self-instruct-now": wilson(3, 10)}
    record = RoundRecord(round=1, rates={}, rates_t1={}, attacker_success=success)
    assert current_success(record).value == 0.3
    trained = dataclasses.replace(record, attacker_success=success | {"trained": wilson(5, 10)})
    assert current_success(trained).value == 0.5
    assert not current_success(dataclasses.replace(record, attacker_success={})).n


def test_the_table_has_the_leak_and_says_how_many_objects_a_suite_has(folder):
    rounds = load(folder).rounds
    few = Rate(value=0.5, n=300, low=0.2, high=0.8, objects=10)
    suite = dataclasses.replace(rounds[1], rates=rounds[1].rates | {"asr": {"figstep": few}})
    rows = {row.name: row for row in round_table([suite])}
    assert rows["figstep (10 objects)"].cells[0].bounds == "20.0–80.0"
    assert rows["ASR@1,000"].cells[0].value == "100.0" and "ASR@1" not in rows
    assert rows["Chance of harm, mean"].cells[0].value == "11.0"
    assert rows["worst of all"].cells[0].value == f"{100 * max(suite.leak.worst):.1f}"
    last = {row.name: row for row in round_table(rounds[3:])}
    assert last["Chance of harm, mean"].cells[0].value == "0.53"
    assert "Chance of harm, mean" not in {
        row.name for row in round_table([dataclasses.replace(suite, leak=None)])
    }
    proxy = dataclasses.replace(suite, harvest=dataclasses.replace(suite.harvest, kept_gold=41))
    kept = {row.name: row for row in round_table([proxy])}["Attacks kept (count)"]
    assert kept.cells[0].note == "41 truly"


def test_the_league_shows_who_beats_whom(folder):
    run = load(folder)
    found = run.summary.league
    (axes,) = league(run).axes
    names = [f"attacker: {name}" for name in found.rates]
    defenders = list(found.rates["cold start"])
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert [label.get_text() for label in axes.get_xticklabels()] == defenders
    places = {text.get_position(): text.get_text() for text in axes.texts}
    rate = found.rates["round 2"]["round 1"]
    assert places[1.5, names.index("attacker: round 2") + 0.38] == percent(rate.value)
    assert len(places) == 2 * len(names) * len(defenders)
    alone = dataclasses.replace(run, summary=dataclasses.replace(run.summary, league=None))
    assert league(alone) is None


def test_styles_are_ranked_by_what_they_do_at_the_end(folder):
    run = load(folder)
    last = run.rounds[-1].leak.styles
    missing = next(iter(last))  # a draw of the attacks need not have every style
    fewer = dataclasses.replace(
        run.rounds[-1].leak, styles={k: v for k, v in last.items() if k != missing}
    )
    changed = [*run.rounds[:-1], dataclasses.replace(run.rounds[-1], leak=fewer)]
    run = dataclasses.replace(run, summary=dataclasses.replace(run.summary, rounds=changed))
    (axes,) = leak_styles(run).axes
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == [*sorted(fewer.styles, key=lambda k: -fewer.styles[k].value), missing]
    assert "–" in {text.get_text() for text in axes.texts}


def test_a_proxys_gap_is_a_figure_where_a_proxy_paid(folder, tmp_path):
    assert proxy_gap(load(folder)) is None
    drawn = proxy_gap(load(write_run(tmp_path / "run", proxy=True)))
    attack, _, kept = drawn.axes
    lines = {line.get_label(): line.get_ydata() for line in attack.lines}
    truth, paid = lines["in truth"], lines["the proxy says"]
    assert all(a > b for a, b in zip(paid, truth, strict=True))
    assert len(kept.patches) == 2 * 3  # two bars in each of three rounds


def test_time_is_counted_by_phase_and_by_part(folder):
    found = phase_seconds(load(folder))
    assert found["harvest"] == {"all": 12.0} and found["evaluate"] == {"all": 26.0}
    assert found["attack"]["rollout"] == pytest.approx(0.05 * 80 * 3)


def test_a_style_is_closed_once_it_stays_below_the_share_of_an_open_one():
    first = styled(1, closed=(9, 10), left=(5, 10), again=(5, 10), never=(0, 9))
    second = styled(2, closed=(0, 10), again=(0, 10), never=(0, 9))
    third = styled(3, closed=(0, 10), again=(9, 10), never=(0, 9))
    rows = {row.style: row for row in style_rows([first, second, third])}
    assert (rows["closed"].closed, rows["closed"].left, rows["closed"].won) == (2, None, 9)
    assert (rows["left"].closed, rows["left"].left) == (None, 1)
    assert (rows["again"].closed, rows["again"].opened) == (None, True)
    assert not rows["never"].opened


def test_attackers_are_compared_where_one_was_trained():
    success = {"self-instruct": wilson(0, 10)}
    untrained = RoundRecord(round=0, rates={}, rates_t1={}, attacker_success=success)
    success = success | {"trained-vs-round-0": wilson(5, 10)}
    trained = RoundRecord(round=1, rates={}, rates_t1={}, attacker_success=success)
    assert attackers([untrained]) is None
    pair = attackers([untrained, trained])
    assert pair.trained.value == 0.5 and pair.ratio != pair.ratio  # never: no ratio to 0


def test_an_unfinished_last_line_of_the_log_is_left_out_and_said(copy):
    steps = len(load(copy).steps)
    with open(copy / "metrics.jsonl", "a") as file:
        file.write('{"round": 3')
    found = load(copy)
    assert len(found.steps) == steps and found.torn == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "field schema: expected 1, found 2"),
        ({"seed": None}, "field seed: found None"),
        ({"rounds": []}, "field rounds: expected"),
        ({"rounds": [{"round": 4, "asr": 0.5}]}, r"field rounds: found a round \(4\)"),
    ],
)
def test_a_foreign_summary_is_refused_by_file_and_field(copy, change, message):
    path = copy / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=f"summary.json: {message}"):
        load(copy)


@pytest.mark.parametrize("name", ["metrics.jsonl", "pool.jsonl"])
@pytest.mark.parametrize("line", ['{"round": 1, "phase": "harvest", "kept": 3}', "nonsense"])
def test_a_foreign_line_is_refused_by_file_and_number(copy, name, line):
    path = copy / name
    rest = path.read_text().splitlines()[1:]
    path.write_text("\n".join([rest[0], line, *rest]) + "\n")
    with pytest.raises(UserError, match=f"{name}, line 2: "):
        load(copy)


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "pool.jsonl", "config.toml"])
def test_a_missing_file_is_named_on_one_line(copy, name, capsys):
    (copy / name).unlink()
    assert html.main([str(copy)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {copy / name}: ") and error.count("\n") == 1


def test_the_models_report_refuses_the_folder_of_a_run(folder, capsys):
    assert models.main([str(folder)]) == 2
    assert "expected the --out of an evaluation" in capsys.readouterr().err


def test_the_models_report_refuses_what_an_earlier_version_wrote(tmp_path, capsys):
    row = {"name": "q", "defence": "none", "mean": {}, "suites": {"xstest": {"cut": 0}}}
    (tmp_path / "summary.json").write_text(json.dumps({"rows": [row], "suites": {}}))
    assert models.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "row q: found no field folder" in error and "evaluate anew with another --out" in error
