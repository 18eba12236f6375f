from __future__ import annotations

import ctypes
import gc
import os

import psutil
import pytest
import torch

from sectow_fast.config import GRPOConfig
from sectow_fast.engine.reference import plain_logprobs
from sectow_fast.engine.sglang_engine import SGLangEngine
from sectow_fast.learn.grpo import grpo_step
from sectow_fast.learn.optim import make_optimizer
from sectow_fast.learn.policy import Policy
from sectow_fast.types import Group, Reward, Sampling, UserError


@pytest.fixture
def trained(engine):
    return engine.model


@pytest.fixture(scope="module")
def prompts(stage):
    found = stage.codec.encode(stage.world.train_cases("harmless")[:12])
    assert {not p.images for p in found} == {True, False}
    return found


def perturb(model, scale: float = 0.02) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)


def worst_gap(engine, prompts, groups, temperature=1.0) -> float:
    return max(
        (
            plain_logprobs(engine.model, engine.codec, p, one.ids, temperature)
            - torch.tensor(one.logprobs)
        )
        .abs()
        .max()
        .item()
        for p, group in zip(prompts, groups, strict=True)
        for one in group
    )


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_those_of_transformers(engine, prompts, temperature):
    sampling = Sampling(temperature=temperature, max_new_tokens=6)
    groups = engine.generate(prompts, n=3, sampling=sampling, seed="a")
    assert worst_gap(engine, prompts, groups, temperature) < 1e-5
    assert all(len({one.ids for one in group}) == 3 for group in groups)


def test_after_every_sync_the_new_weights_roll_out(engine, prompts, trained):
    for _ in range(3):
        perturb(trained)
        engine.sync(trained)
        groups = engine.generate(prompts, n=2, sampling=Sampling(max_new_tokens=5), seed="b")
        assert worst_gap(engine, prompts, groups) < 1e-5
        assert {one.weight_version for group in groups for one in group} == {engine.weight_version}


def test_greedy_is_the_torch_engines(engine, stage, prompts, trained):
    from sectow_fast.engine.torch_engine import TorchEngine

    sampling = Sampling(temperature=0.0, max_new_tokens=5)
    ours = engine.generate(prompts, n=1, sampling=sampling, seed="")
    theirs = TorchEngine(trained, stage.codec).generate(prompts, n=1, sampling=sampling, seed="")
    assert [g[0].ids for g in ours] == [g[0].ids for g in theirs]
    assert [g[0].finish_reason for g in ours] == [g[0].finish_reason for g in theirs]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            torch.tensor(a[0].logprobs), torch.tensor(b[0].logprobs), atol=1e-5, rtol=1e-5
        )


def test_finish_reasons_and_banned_tokens(engine, stage, prompts):
    groups = engine.generate(prompts, n=8, sampling=Sampling(max_new_tokens=60), seed="e")
    done = [one for group in groups for one in group]
    assert {one.finish_reason for one in done} == {"stop", "length"}
    for one in done:
        assert (one.finish_reason == "stop") == (one.ids[-1] == stage.codec.eos_id)
        assert stage.codec.eos_id not in one.ids[:-1] and len(one.ids) <= 60
        assert not set(one.ids) & set(stage.codec.banned_ids)


def test_sleep_and_wake_keep_the_weights(engine, prompts):
    engine.sleep()
    assert engine.server.asleep
    engine.wake()
    assert not engine.server.asleep
    engine.sleep()
    groups = engine.generate(prompts, n=1, sampling=Sampling(max_new_tokens=5), seed="f")
    assert worst_gap(engine, prompts, groups) < 1e-5


def test_weights_that_moved_without_a_sync_are_refused(engine, prompts, trained):
    perturb(trained)
    with pytest.raises(RuntimeError, match="changed since the last sync"):
        engine.generate(prompts[:1], n=1, sampling=Sampling(), seed="g")
    engine.sync(trained)
    with pytest.raises(ValueError, match="made with"):
        engine.sync(torch.nn.Linear(1, 1))


def test_a_parameter_left_out_is_refused(engine, prompts, trained, monkeypatch):
    whole = engine._weights_of

    def without(model):
        weights = whole(model)
        weights.pop(sorted(engine.shapes)[3])
        return weights

    monkeypatch.setattr(engine, "_weights_of", without)
    engine.sync(trained)
    with pytest.raises(RuntimeError, match="1 parameters missing"):
        engine.generate(prompts[:1], n=1, sampling=Sampling(), seed="h")


def test_a_parameter_that_no_push_reaches_shows_in_the_first_log_probs(
    engine, prompts, monkeypatch
):
    """A server starts with dummy weights; here the coverage check is told not to look."""
    whole = engine._weights_of
    name = next(n for n in sorted(engine.shapes) if n.endswith("o_proj.weight"))

    def without(model):
        return {n: w for n, w in whole(model).items() if n != name}

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_weights_of", without)
        patch.setattr(
            engine, "shapes", {n: shape for n, shape in engine.shapes.items() if n != name}
        )
        engine.server.process.kill()
        with pytest.raises(UserError, match="log-probs of the first rollout"):
            engine.generate(prompts, n=1, sampling=Sampling(max_new_tokens=5), seed="i")
    assert engine.server.open_requests == 0
    engine.sync(engine.model)
    groups = engine.generate(prompts, n=1, sampling=Sampling(max_new_tokens=5), seed="i")
    assert worst_gap(engine, prompts, groups) < 1e-5


def test_two_models_swap_on_one_server(engine, stage, prompts):
    other = stage.defender()
    perturb(other)
    second = SGLangEngine(engine.server, other, stage.codec, name="round-0", shapes=engine.shapes)
    assert not engine.runs_beside(second)
    starts = engine.server.starts
    for one in (engine, second, engine):
        groups = one.generate(prompts, n=2, sampling=Sampling(max_new_tokens=5), seed="j")
        assert worst_gap(one, prompts, groups) < 1e-5
    assert engine.server.starts == starts
    stream = engine.submit(prompts, n=8, sampling=Sampling(max_new_tokens=100), seed="k")
    with pytest.raises(RuntimeError, match="requests of 'defender:"):
        second.generate(prompts, n=1, sampling=Sampling(), seed="l")
    stream.close()


def test_fifty_syncs_grow_no_process(engine, stage, prompts, spawning):
    """Resident memory without shared pages, of trainer, host, scheduler and detokenizer.

    The engine is no fork, whose pages would stop being shared one by one."""
    with spawning():
        engine.server._revive("no fork is wanted")

    def cycle():
        perturb(engine.model, scale=1e-4)
        engine.sync(engine.model)
        engine.generate(prompts, n=2, sampling=Sampling(max_new_tokens=4), seed="m")
        engine.sleep()

    def unshared() -> dict[int, int]:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is held, not what malloc keeps at hand
        pids = [
            os.getpid(),
            engine.server.process.info["pid"],
            *engine.server.process.info["children"],
        ]
        return {pid: psutil.Process(pid).memory_full_info().uss for pid in pids}

    for _ in range(20):
        cycle()
    before = unshared()
    for _ in range(50):
        cycle()
    after = unshared()
    assert before.keys() == after.keys() and len(before) == 4
    for pid, size in before.items():
        assert after[pid] < 1.01 * size, (pid, size, after[pid])


def test_the_gate_stops_a_run_that_rolls_out_other_weights(engine, stage, prompts):
    """Sound weights pass by far, with importance sampling on; stale ones stop the run in words."""
    groups = engine.generate(prompts, n=4, sampling=Sampling(max_new_tokens=5), seed="n")
    batch = [
        Group(
            prompt=prompt,
            completions=tuple(group),
            rewards=tuple(Reward(total=float(i % 2)) for i in range(len(group))),
        )
        for prompt, group in zip(prompts, groups, strict=True)
    ]
    config = GRPOConfig(max_new_tokens=5, loss={"tis_cap": 2.0})
    optimizer = make_optimizer(engine.model, 0.0, betas=(0.9, 0.95), weight_decay=0.0)

    policy = Policy(engine.model, stage.codec)

    def step() -> dict[str, float]:
        return grpo_step(policy, optimizer, batch, config=config)

    assert step()["mismatch_kl"] < 1e-8
    perturb(engine.model, scale=0.2)
    with pytest.raises(UserError, match=r"mismatch of .* look at the engine's weights"):
        step()
