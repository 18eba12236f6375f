"""A player's model is saved whole or not at all."""

from __future__ import annotations

import contextlib
import resource

import pytest
import torch

from sectow_fast import train
from sectow_fast.config import Config, SandboxConfig
from sectow_fast.data.sandbox.stage import SandboxStage
from sectow_fast.learn.leaving import RankLeft
from sectow_fast.learn.ranks import ALONE
from sectow_fast.players import Players
from sectow_fast.types import UserError


def test_a_full_disk_is_said_and_leaves_no_model_behind(tmp_path):
    config = Config(threads=1, sandbox=SandboxConfig(suite_size=20, picture_variants=2))
    stage = SandboxStage(config)
    players = Players(config, stage, folder=tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"defender: the model could not be written .*--resume"):
            players.keep(players.defender, tmp_path / "defender")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "defender").exists()
    players.keep(players.defender, tmp_path / "defender")
    loaded = stage.load(tmp_path / "defender").state_dict()
    for name, value in players.defender.model.state_dict().items():
        assert torch.equal(loaded[name], value), name


def test_the_other_ranks_are_told_of_a_failure_before_engines_are_closed(monkeypatch):
    seen = []

    @contextlib.contextmanager
    def joined(*, timeout):
        try:
            yield ALONE
        except RuntimeError:
            seen.append("told")
            raise RankLeft(1) from None

    def play(config, asked, options, ranks, at_end):
        at_end.callback(seen.append, "closed")
        raise RuntimeError("lost")

    monkeypatch.setattr("sectow_fast.learn.ranks.joined", joined)
    monkeypatch.setattr(train, "_play", play)
    for setting in ("set_num_threads", "use_deterministic_algorithms"):  # of the whole process
        monkeypatch.setattr(torch, setting, lambda *_, **__: None)
    assert train.play_run(Config(), None) == 1
    assert seen == ["told", "closed"]
