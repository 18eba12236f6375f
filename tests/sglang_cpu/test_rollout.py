from __future__ import annotations

import pytest
import torch

from sectow_fast.engine.reference import plain_logprobs
from sectow_fast.types import Sampling


@pytest.fixture(scope="module")
def trained(stage):
    return stage.defender()


@pytest.fixture(scope="module")
def engine(make, trained):
    return make().of("defender", trained)


@pytest.fixture(scope="module")
def prompts(stage):
    found = stage.codec.encode(stage.world.train_cases("harmless")[:12])
    assert {p.image is None for p in found} == {True, False}
    return found


def perturb(model) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)


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
    from sectow_fast.engine import sglang_engine

    whole = sglang_engine.checkpoint_weights

    def without(model):
        weights = whole(model)
        weights.pop(sorted(engine.shapes)[3])
        return weights

    monkeypatch.setattr(sglang_engine, "checkpoint_weights", without)
    engine.sync(trained)
    with pytest.raises(RuntimeError, match="1 parameters missing"):
        engine.generate(prompts[:1], n=1, sampling=Sampling(), seed="h")


def test_a_parameter_that_no_push_reaches_shows_in_the_first_log_probs(make, stage, prompts):
    """The server starts with dummy weights; here the coverage check is told not to look."""
    from sectow_fast.types import UserError

    engine = make().of("defender", stage.defender())
    name = next(n for n in sorted(engine.shapes) if n.endswith("o_proj.weight"))
    engine.shapes = {n: shape for n, shape in engine.shapes.items() if n != name}
    whole = type(engine)._push.__globals__["checkpoint_weights"]
    type(engine)._push.__globals__["checkpoint_weights"] = lambda model: {
        n: w for n, w in whole(model).items() if n != name
    }
    try:
        with pytest.raises(UserError, match="log-probs of the first rollout"):
            engine.generate(prompts, n=1, sampling=Sampling(max_new_tokens=5), seed="i")
    finally:
        type(engine)._push.__globals__["checkpoint_weights"] = whole


def test_two_models_swap_on_one_server(make, stage, prompts):
    engines = make(roles="swap")
    first, second = stage.defender(), stage.defender()
    perturb(second)
    a, b = engines.of("attacker", first), engines.of("defender", second)
    assert a.server is b.server
    for engine in (a, b, a):
        groups = engine.generate(prompts, n=2, sampling=Sampling(max_new_tokens=5), seed="j")
        assert worst_gap(engine, prompts, groups) < 1e-5
    assert a.server.starts == 1
