"""A player's model is saved whole or not at all."""

from __future__ import annotations

import resource

import pytest
import torch

from sectow_fast.config import Config, SandboxConfig
from sectow_fast.data.sandbox.stage import SandboxStage
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
