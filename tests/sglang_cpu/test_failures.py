"""The engine is killed, hangs, or gives short rows: the batch is whole all the same."""

from __future__ import annotations

import itertools
import os
import signal
import time

import psutil
import pytest

from sectow_fast.engine.reference import plain_logprobs
from sectow_fast.types import Sampling, UserError

LONG = Sampling(max_new_tokens=120)


@pytest.fixture
def prompts(stage):
    return stage.codec.encode(stage.world.train_cases("harmless")[:16])


def scheduler(engine) -> psutil.Process:
    """The child that does the work, by its share of it."""
    children = [psutil.Process(pid) for pid in engine.server.process.info["children"]]
    return max(children, key=lambda process: process.memory_info().rss)


def started(engine, prompts, n=4):
    """A stream under way: some completions are there, some are not."""
    stream = engine.submit(prompts, n=n, sampling=LONG, seed="x")
    taken = list(itertools.islice(stream.each(), 3))
    assert len(taken) == 3 and engine.server.open_requests > 3
    return stream, taken


def check_whole(engine, prompts, taken, rest, n=4):
    keys = sorted((i, j) for i, j, _ in [*taken, *rest])
    assert keys == [(i, j) for i in range(len(prompts)) for j in range(n)]
    for i, _, one in [*taken[:1], *rest[-2:]]:
        ours = plain_logprobs(engine.model, engine.codec, prompts[i], one.ids, 1.0)
        assert max(abs(a - b) for a, b in zip(ours.tolist(), one.logprobs, strict=True)) < 1e-4


def test_short_rows_are_asked_for_again(engine, prompts):
    before = engine.server.counts
    stream, taken = started(engine, prompts)
    # SGLang itself cuts these short: it is told to abort them behind our back.
    engine.server.process.send("abort", list(engine.server._waiting)[-3:])
    rest = list(stream.each())
    check_whole(engine, prompts, taken, rest)
    after = engine.server.counts
    assert {name: after[name] - before[name] for name in after} == {
        "bad_rows": 3,
        "resent": 3,
        "restarts": 0,
        "aborted": 0,
    }


def test_closing_a_stream_stops_the_rest_and_the_next_one_is_clean(engine, prompts):
    before = engine.server.counts["aborted"]
    stream, _ = started(engine, prompts)
    stream.close()
    assert engine.server.counts["aborted"] > before + 3 and engine.server.open_requests == 0
    assert list(stream.each()) == []
    groups = engine.generate(prompts, n=1, sampling=Sampling(max_new_tokens=4), seed="y")
    assert [len(group) for group in groups] == [1] * len(prompts)
    engine.sleep()  # an engine with requests left would refuse to flush


def test_kill_9_of_the_scheduler_mid_rollout(engine, prompts):
    before = engine.server.counts["restarts"]
    stream, taken = started(engine, prompts)
    old = [psutil.Process(pid) for pid in engine.server.process.info["children"]]
    scheduler(engine).kill()
    rest = list(stream.each())
    check_whole(engine, prompts, taken, rest)
    assert engine.server.counts["restarts"] == before + 1
    assert not any(process.is_running() for process in old)


def test_a_hang_is_noticed(engine, prompts, monkeypatch):
    quick = engine.server.config.model_copy(update={"timeout": 5.0})
    monkeypatch.setattr(engine.server, "config", quick)
    before = engine.server.counts["restarts"]
    stream, taken = started(engine, prompts)
    os.kill(scheduler(engine).pid, signal.SIGSTOP)
    began = time.monotonic()
    rest = list(stream.each())
    check_whole(engine, prompts, taken, rest)
    assert engine.server.counts["restarts"] == before + 1
    assert time.monotonic() - began > engine.server.config.timeout


def test_an_engine_that_dies_again_and_again_ends_the_run(engine, prompts, monkeypatch):
    monkeypatch.setattr(
        engine.server, "config", engine.server.config.model_copy(update={"restarts": 0})
    )
    os.kill(
        engine.server.process.info["pid"], signal.SIGQUIT
    )  # what a failed scheduler sends its parent
    with pytest.raises(UserError, match="had to be restarted 1 times without giving one reply"):
        engine.generate(prompts, n=4, sampling=LONG, seed="z")
