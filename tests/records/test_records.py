"""What a run writes of itself is read back as the same carriers."""

from __future__ import annotations

import json
import math

import pytest

from sectow_fast.records import (
    PhaseRecord,
    StepRecord,
    attack_as_dict,
    attack_from_dict,
    event_row,
    record_of,
)
from sectow_fast.rounds import (
    MEASURES,
    NO_RATE,
    HarvestRecord,
    LeakRecord,
    RoundRecord,
    RunSummary,
    StyleCount,
)
from sectow_fast.types import NOT_SAID, Attack, Case, Event, JudgedBy, Rate, UserError, wilson

EVENT = Event(
    kind="over-refusal", message="m", round=1, phase="defend", step=3, values={"orr_probe": 0.1}
)
STEP = StepRecord(
    round=2,
    phase="attack",
    step=5,
    steps=9,
    seconds={"rollout": 0.5, "train": 1.5},
    reward={"total": 0.25},
    measures={"loss": 0.125, "lr": 1e-4, "tokens": 96.0},
    engine={"restarts": 1},
)
ROUND = RoundRecord(
    round=1,
    rates={name: {"figstep": wilson(3, 10, 2), "mean": wilson(3, 10, 2)} for name in MEASURES},
    rates_t1={name: {"mean": wilson(1, 10)} for name in MEASURES},
    graded={"mean": wilson(4, 10)},
    leak=LeakRecord(
        attacks=4,
        space=40,
        mean=Rate(value=0.1, n=4, low=0.0, high=0.2, objects=2),
        graded=Rate(value=0.2, n=4, low=0.1, high=0.3, objects=2),
        worst=(0.25, 0.5),
        worst_median=Rate(value=0.375, n=4, low=0.25, high=0.5, objects=2),
        asr_at={1: Rate(value=0.1, n=4, low=0.0, high=0.2, objects=2)},
        styles={"typo": Rate(value=0.1, n=4, low=0.0, high=0.2, objects=2)},
    ),
    attacker_success={"trained": wilson(7, 9)},
    harvest=HarvestRecord(
        kept=3, dropped={"failed": 2}, styles={"typo": StyleCount(tried=5, won=3)}
    ),
    queries={"attack": 96, "harvest": 20},
    events=(EVENT,),
)


@pytest.mark.parametrize("record", [STEP, PhaseRecord(round=1, phase="harvest", seconds=2.5)])
def test_a_line_of_the_log_reads_back_as_what_was_written(record):
    assert record_of(json.loads(json.dumps(record.as_row()))) == record


def test_an_event_reads_back_as_what_was_written():
    assert record_of(json.loads(json.dumps(event_row(EVENT)))) == EVENT


@pytest.mark.parametrize("record", [ROUND, RoundRecord(round=0, rates=ROUND.rates, rates_t1={
    name: {} for name in MEASURES})])  # fmt: skip
def test_a_round_reads_back_as_what_was_written(record):
    assert RoundRecord.from_dict(json.loads(json.dumps(record.as_dict()))) == record


def test_a_round_has_the_fields_of_the_contract():
    row = ROUND.as_dict()
    assert row["round"] == 1 and row["kept"] == 3 and row["dropped"] == {"failed": 2}
    assert row["styles"] == {"typo": {"tried": 5, "won": 3}}
    assert row["queries"] == {"attack": 96, "harvest": 20}
    for kind in ("asr", "orr", "accuracy"):
        assert set(row[kind]["figstep"]) == {"value", "n", "low", "high", "unknown"}
        assert set(row[f"{kind}_t1"]) == {"mean"}
    assert row["leak"]["worst_max"] == 0.5 and row["leak"]["objects"] == 2
    assert set(row["leak"]["mean"]) == {"value", "n", "low", "high", "unknown", "objects"}
    assert set(row["asr_graded"]) == {"mean"} and "asr_graded_t1" not in row
    assert row["events"][0]["kind"] == "over-refusal"
    assert "kept" not in RoundRecord(round=0, rates=ROUND.rates, rates_t1=ROUND.rates).as_dict()


def test_a_number_that_was_not_finite_comes_back_as_nan():
    row = STEP.as_row() | {"loss": None, "seconds": {"rollout": None}}
    found = record_of(row)
    assert math.isnan(found.measures["loss"]) and math.isnan(found.seconds["rollout"])


def test_means_are_found_by_measure_and_temperature():
    assert ROUND.mean("asr").value == 0.3 and ROUND.mean("asr", t1=True).value == 0.1
    bare = RoundRecord(round=0, rates={"asr": {}}, rates_t1={})
    assert bare.mean("asr") is NO_RATE and math.isnan(NO_RATE.value)


@pytest.mark.parametrize("row", [{}, {"round": 1}, {"event": {"kind": "x"}}, {"step": 1}])
def test_a_line_that_is_no_record_is_refused_by_name(row):
    with pytest.raises(UserError, match=r"^log, line 3: found a line"):
        record_of(row, where="log, line 3")


@pytest.mark.parametrize(
    "change", [{"asr": None}, {"styles": {"typo": {"seen": 1}}}, {"queries": 3}, {"events": 1}]
)
def test_a_round_that_was_not_written_so_is_refused_by_number(change):
    with pytest.raises(UserError, match=r"^s\.json: field rounds: found a round \(1\)"):
        RoundRecord.from_dict(ROUND.as_dict() | change, where="s.json")


SUMMARY = RunSummary(
    preset="sandbox",
    seed=3,
    versions={"torch": "2"},
    device="cpu",
    wall_seconds=1.5,
    ablate=["no-harmless"],
    attacker="grpo",
    defender="grpo",
    judged=JudgedBy(by="rule", people="kappa 0.8", attacks="not refused"),
    rounds=[ROUND],
)


def test_a_summary_reads_back_as_what_was_written_and_has_the_schema_of_the_contract():
    row = json.loads(json.dumps(SUMMARY.as_dict()))
    assert row["schema"] == 1 and row["rounds"][0]["round"] == 1
    assert RunSummary.from_dict(row) == SUMMARY
    assert SUMMARY.judged.words() == "judged by rule; kappa 0.8"


def test_a_summary_of_an_earlier_version_does_not_say_who_judged():
    row = json.loads(json.dumps(SUMMARY.as_dict()))
    del row["judged"]
    assert RunSummary.from_dict(row).judged == NOT_SAID and NOT_SAID.attacks == "ASR"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "field schema: expected 1, found 2"),
        ({"seed": "x"}, "field seed: found 'x'"),
        ({"device": None}, "field device: found None"),
        ({"judged": {"who": "me"}}, "field judged: found .*, expected by, people, attacks"),
        ({"judged": "me"}, "field judged: found 'me'"),
        ({"rounds": []}, "field rounds: expected a list"),
        ({"rounds": [{"round": 1}]}, r"field rounds: found a round \(1\)"),
    ],
)
def test_a_summary_that_was_not_written_so_is_refused_by_field(change, words):
    with pytest.raises(UserError, match=f"^s.json: {words}"):
        RunSummary.from_dict(SUMMARY.as_dict() | change, where="s.json")
    with pytest.raises(UserError, match=r"^s.json: field schema: expected 1, found 'list'"):
        RunSummary.from_dict([], where="s.json")


def test_a_kept_attack_reads_back_as_what_was_written():
    case = Case(id="a", text="t", label="unsafe", goal="g", style="typo", image="typo/1/0")
    attack = Attack(case=case, seed_id="s", mode="refine", words="w", round=2, success=0.5)
    row = json.loads(json.dumps(attack_as_dict(attack)))
    assert (row["style"], row["goal"], row["image"]) == ("typo", "g", "typo/1/0")
    assert attack_from_dict(row) == attack
    with pytest.raises(UserError, match=r"^pool, line 2: found no attack \(KeyError: 'words'\)"):
        attack_from_dict({k: v for k, v in row.items() if k != "words"}, where="pool, line 2")


@pytest.mark.parametrize("bad", [{"loss": "x"}, {"dropped": {"failed": 1}}, {"seconds": 0.5}])
def test_a_step_holds_numbers_alone(bad):
    with pytest.raises(UserError, match="found a line that this version did not write"):
        record_of(STEP.as_row() | bad)
