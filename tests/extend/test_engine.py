from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from sectow_fast.config import Config, EngineConfig, GRPOConfig
from sectow_fast.engine.kinds import EngineSetup
from sectow_fast.engine.reference import plain_logprobs
from sectow_fast.engine.registry import engine_kind
from sectow_fast.game.player import Player
from sectow_fast.learn.grpo import grpo_step
from sectow_fast.learn.optim import make_optimizer
from sectow_fast.learn.policy import Policy
from sectow_fast.plugins import load_plugins
from sectow_fast.types import Group, Reward, Sampling, UserError

EXAMPLE = Path(__file__).parent / "examples" / "engine.py"
CONFIG = Config(engine=EngineConfig(kind="generate"))


@pytest.fixture(scope="module", autouse=True)
def _loaded(tmp_path_factory):
    """The example is loaded once: an engine's name can be taken once in a process."""
    copy = shutil.copy(EXAMPLE, tmp_path_factory.mktemp("outside") / "their_engine.py")
    load_plugins([str(copy)])


@pytest.fixture
def engines(stage, tmp_path):
    kind = engine_kind(CONFIG)
    kind.check(CONFIG, 1)
    made = kind.make(
        EngineSetup(
            config=CONFIG,
            codec=stage.codec,
            folder=tmp_path,
            write_folder=stage.describe,
        )
    )
    yield made
    made.close()


@pytest.fixture
def cases(stage):
    found = stage.world.train_cases("harmless")[:4]
    assert {case.image is None for case in found} == {True, False}
    return found


def test_its_completions_are_samples_of_the_model(stage, model, engines, cases):
    engine = engines.of("defender", model)
    engine.sync(model)
    prompts = stage.codec.encode(cases)
    sampling = Sampling(temperature=0.8, max_new_tokens=4)
    groups = engine.generate(prompts, n=2, sampling=sampling, seed="a")
    for prompt, group in zip(prompts, groups, strict=True):
        for one in group:
            wanted = plain_logprobs(model, stage.codec, prompt, one.ids, 0.8)
            torch.testing.assert_close(torch.tensor(one.logprobs), wanted, atol=2e-5, rtol=1e-4)
            assert not set(one.ids) & set(stage.codec.banned_ids)
            assert one.weight_version == 1
    assert len({one.ids for group in groups for one in group}) > len(prompts)


def test_it_streams_and_draws_by_number(stage, model, engines, cases):
    engine = engines.of("defender", model)
    prompts = stage.codec.encode(cases)
    sampling = Sampling(max_new_tokens=4)
    together = engine.generate(prompts, n=2, sampling=sampling, seed="b")
    for number, prompt in enumerate(prompts):
        stream = engine.submit([prompt], n=2, sampling=sampling, seed="b", numbers=[number])
        for i, j, one in stream.each():
            assert i == 0 and one.ids == together[number][j].ids


def test_a_player_with_it_replies_and_learns(stage, model, engines, cases):
    """Rollout, rewards and one update, with the gate on rollout and trainer log-probs."""
    player = Player(model=model, engine=engines.of("defender", model), codec=stage.codec)
    prompts = stage.codec.encode(cases)
    config = GRPOConfig(group_size=2, max_new_tokens=4)
    replies = player.engine.generate(prompts, n=2, sampling=Sampling(max_new_tokens=4), seed="c")
    groups = [
        Group(
            prompt=prompt,
            completions=tuple(group),
            rewards=tuple(Reward(total=float(j)) for j in range(2)),
        )
        for prompt, group in zip(prompts, replies, strict=True)
    ]
    optimizer = make_optimizer(model, 1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    row = grpo_step(Policy(model, stage.codec), optimizer, groups, config=config)
    assert row["mismatch_kl"] < 1e-6 and row["grad_norm"] > 0
    player.engine.sync(model)


def test_its_name_cannot_be_taken_again(tmp_path):
    second = shutil.copy(EXAMPLE, tmp_path / "second_engine.py")
    with pytest.raises(UserError, match="engine 'generate': found the name taken"):
        load_plugins([str(second)])


def test_learn_offload_is_refused_for_it_by_name():
    """What is asked of `engine.kind torch` is asked of every engine that shares the weights."""
    from sectow_fast.players import check

    asked = Config(engine={"kind": "generate"}, learn={"offload": "on"})
    with pytest.raises(UserError, match=r"learn\.offload: found on with engine\.kind generate"):
        check(asked)
    check(CONFIG)
