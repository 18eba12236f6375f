"""Supervised phases: what a step is taught, logged, and when it gives up."""

from __future__ import annotations

import pytest
from scripted import ScriptedWorld, player, question
from scripted_match import ScriptedLearner

from sectow_fast.game.coldstart import OWN_LEAST, own_replies, run_lessons, whole_sentences
from sectow_fast.types import UserError


def taught(metrics=None, *, start=0, steps=50, skipped=0, batch=3):
    who = player(lambda *_: "fine")
    pupil = ScriptedLearner(who, *([metrics] if metrics else []))
    records = []
    run_lessons(
        lambda rng: (question(rng.randrange(1000)), "two words"),
        player=who,
        pupil=pupil,
        steps=steps,
        batch=batch,
        lr=0.1,
        key="0/lesson",
        round=2,
        phase="defend",
        start=start,
        on_step=lambda record, events: records.append((record, events)),
        skipped=skipped,
    )
    return who, pupil, records


def test_every_step_is_taught_and_logged():
    _, pupil, records = taught(steps=5)
    assert [len(batch) for batch in pupil.batches] == [3] * 5
    assert [(r.round, r.phase, r.step, r.steps) for r, _ in records] == [
        (2, "defend", step, 5) for step in range(5)
    ]
    record, events = records[0]
    prompts, replies = zip(*pupil.batches[0], strict=True)
    assert record.measures["tokens"] == sum(map(len, [p.ids for p in prompts])) + 3 * 3
    assert all(len(reply) == 3 for reply in replies) and events == []
    assert record.measures["lr"] == pupil.rates[0] and record.measures["skipped_in_row"] == 0.0
    assert 0 < record.seconds["train"] < 100
    speed = record.measures["tokens"] / record.seconds["train"]
    assert record.measures["tokens_per_second"] == pytest.approx(speed)


def test_the_engine_sleeps_for_the_phase_and_draws_from_the_new_weights_after_it():
    who, *_ = taught(steps=5)
    assert who.engine.slept == 1 and who.engine.synced == [5.0]


def test_the_rate_warms_up_and_decays():
    _, pupil, _ = taught(steps=200, batch=1)
    assert pupil.rates[0] == pytest.approx(0.1 / 40) and pupil.rates[45] == pytest.approx(0.1)
    assert pupil.rates[199] < 0.005
    # A short phase reaches its rate, too.
    _, short, _ = taught(steps=12, batch=1)
    assert short.rates[:3] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])


def test_a_resumed_phase_draws_what_the_whole_one_would_have():
    _, whole, _ = taught(steps=6)
    _, rest, records = taught(steps=6, start=4)
    assert [r.step for r, _ in records] == [4, 5] and rest.rates == whole.rates[4:]
    ids = [[prompt.case_id for prompt, _ in batch] for batch in whole.batches]
    assert ids[4:] == [[prompt.case_id for prompt, _ in batch] for batch in rest.batches]
    assert len({tuple(one) for one in ids}) == 6


def test_three_updates_in_a_row_that_are_not_finite_stop_the_run():
    with pytest.raises(UserError, match=r"0/lesson, step 2: .* 3 times in a row; lower coldstart"):
        taught({"skipped": 1.0})
    with pytest.raises(UserError, match="step 1:"):
        taught({"skipped": 1.0}, skipped=1)


def test_skips_are_counted_in_a_row():
    who = player(lambda *_: "fine")

    class Hiccups(ScriptedLearner):
        def teach(self, pairs, *, lr):
            super().teach(pairs, lr=lr)
            return {"skipped": float(len(self.batches) % 3 > 0)}

    records = []
    run_lessons(
        lambda rng: (question(1), "x"),
        player=who,
        pupil=Hiccups(who),
        steps=7,
        batch=1,
        lr=0.1,
        key="k",
        round=0,
        phase="p",
        start=0,
        on_step=lambda record, events: records.append(record.measures["skipped_in_row"]),
    )
    assert records == [1.0, 2.0, 0.0, 1.0, 2.0, 0.0, 1.0]


def replies(say, harmless=20, count=16):
    who, world = player(say), ScriptedWorld(harmless=harmless)
    return own_replies(world, who, count=count, max_new_tokens=8, seed="s", wanted="this")


def test_own_replies_are_right_whole_and_no_refusals():
    def say(request, number, sample):
        return {0: "sorry", 1: "wrong", 2: None}.get(int(request.split()[-1]), "fine")

    found = replies(say, count=20)
    assert set(found.values()) == {"fine"} and len(found) == 17
    assert not {"q0", "q1", "q2"} & set(found)
    assert len(replies(say, count=12)) <= 12


def test_a_refusal_is_no_reply_of_its_own_where_no_answer_is_known(monkeypatch):
    cases = [question(number, None) for number in range(20)]
    monkeypatch.setattr(ScriptedWorld, "train_cases", lambda world, label: cases)
    found = replies(lambda request, *_: "sorry" if request.endswith("7") else "words", count=20)
    assert len(found) == 18 and set(found.values()) == {"words"}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Take it. Then fold", "Take it."),
        ("Steps:\n1. Take it!\n2.", "Steps:\n1. Take it!"),
        ("3.5 is more than 2", ""),
        ("no end", ""),
        ("Who knows? He said", "Who knows?"),
    ],
)
def test_a_cut_reply_is_taught_up_to_its_last_sentence(text, kept):
    assert whole_sentences(text) == kept


def test_a_defender_without_replies_of_its_own_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"this: found 0 of 16 .* expected 8"):
        replies(lambda *_: "sorry")
    assert OWN_LEAST == 8
