"""A run on a card measures it once: what it writes, reads again, and refuses."""

from __future__ import annotations

import json

import pytest
import torch

from sectow_fast import fitting, train
from sectow_fast.config import Config, LearnConfig, ModelConfig, SandboxConfig
from sectow_fast.data.sandbox.stage import SandboxStage
from sectow_fast.fitting import fitted
from sectow_fast.learn.sharding import is_sharded
from sectow_fast.players import Players
from sectow_fast.types import UserError


class Scale:
    """A gauge of a card with `room` bytes, on which a token of a row takes `slope`."""

    def __init__(self, room: int, slope: int = 1000) -> None:
        self.room, self.slope, self.rows = room, slope, 0

    def free(self) -> int:
        return self.room

    def restart(self) -> None:
        self.rows += 1

    def taken(self) -> int:
        return 64 * self.slope * (2 - self.rows % 2)  # a row of 64 tokens, then a longer one


def unused(config: Config) -> Scale:
    raise AssertionError("the card is measured again")


@pytest.fixture(autouse=True)
def no_process_group_is_left():
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """(configuration of a player that was saved, its stage)"""
    folder = tmp_path_factory.mktemp("fitting")
    config = Config(
        sandbox=SandboxConfig(suite_size=2, picture_variants=1),
        model=ModelConfig(hidden_size=16, layers=1),
    )
    stage = SandboxStage(config)
    players = Players(config, stage, folder=folder)
    players.keep(players.defender, folder / "model")
    engine = config.engine.model_copy(update={"context_length": 64, "kv_tokens": 4096})
    engine = engine.model_copy(update={"max_running": 64})
    model = config.model.model_copy(update={"defender": str(folder / "model")})
    learn = LearnConfig(offload="off", dtype="bfloat16")
    config = config.model_copy(update={"engine": engine, "model": model, "learn": learn})
    config = config.model_copy(
        update={
            name: getattr(config, name).model_copy(update={"tokens_per_batch": 160})
            for name in ("coldstart", "attack", "defend")
        }
    )
    assert is_sharded(learn, world=1, apart=False)
    asked_engine = engine.model_copy(update={"kv_tokens": None})
    asked = config.model_copy(update={"learn": LearnConfig(), "engine": asked_engine})
    return config, asked, SandboxStage(config)


def play(scene, folder, gauge, said=None):
    config, asked, stage = scene
    card = gauge if callable(gauge) else lambda config: gauge
    say = (said if said is not None else []).append
    return fitted(config, asked, stage, folder=folder, say=say, card=card)


def trains_on(config: Config) -> set[int]:
    return {getattr(config, n).tokens_per_batch for n in ("coldstart", "attack", "defend")}


def test_what_fits_is_kept_and_a_resumed_run_reads_it(scene, tmp_path):
    gauge, said = Scale(10**9), []
    config, players = play(scene, tmp_path, gauge, said)
    # The cache has room to grow up to all requests of full length.
    assert config == players.config and config.engine.kv_tokens == 4096
    assert config == scene[0] and gauge.rows == 4  # two rows of each player
    row = json.loads((tmp_path / "memory.json").read_text())
    assert row["choice"] == {"offload": False, "rows": 160, "cache": 4096}
    # Up to 160 tokens go one more prompt and its reply to the first ones: 120.
    assert row["found"]["row"] == 64_000 and row["found"]["most"] == 160
    assert row["found"]["slope"] == 64_000 // (120 - 64)
    assert len(said) == 1 and "rows of 160 tokens" in said[0] and "memory.json" in said[0]
    for player in (players.defender, players.attacker):
        assert all(p.grad is None for p in player.model.parameters())


class Unread:
    """A gauge that nobody may ask."""

    def __getattr__(self, name):
        raise AssertionError(f"the card is measured again ({name})")


def test_shorter_rows_go_into_what_is_played(scene, tmp_path):
    moments = moments_of(scene[2])
    room = int(64_000 * 1.05) + moments + 20_000
    config, players = play(scene, tmp_path, Scale(room))
    slope = json.loads((tmp_path / "memory.json").read_text())["found"]["slope"]
    assert trains_on(config) == trains_on(players.config) == {64 + 20_000 // slope}
    assert config.learn.offload == "off"
    again, _ = play(scene, tmp_path, lambda config: Unread())
    assert again == config


def test_weights_move_to_the_host_where_only_that_fits_and_it_is_measured_there(scene, tmp_path):
    gauge = Scale(int(64_000 * 1.05) + moments_of(scene[2]) - 1)
    config, players = play(scene, tmp_path, gauge)
    assert config.learn.offload == "on" and gauge.rows == 8
    assert players.defender.policy.offload
    row = json.loads((tmp_path / "memory.json").read_text())
    assert row["found"]["offload"] and row["choice"]["offload"]


def test_what_fits_nowhere_ends_with_its_setting_and_leaves_nothing(scene, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(Players, "close", lambda self: closed.append(self))
    with pytest.raises(UserError, match=r"^engine\.context_length 64: found"):
        play(scene, tmp_path, Scale(1000))
    assert closed and not (tmp_path / "memory.json").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"choice": {"rows": 4}}',
        "[]",
        '{"choice": {"offload": 1, "rows": 4, "cache": 4}}',
    ],
)
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "memory.json").write_text(text)
    with pytest.raises(UserError, match=r"memory\.json: found no choice of memory"):
        fitting.read(tmp_path / "memory.json")


def moments_of(stage: SandboxStage) -> int:
    """Bytes of Adam's moments of one model."""
    return sum(2 * p.numel() * 4 for p in stage.defender().parameters())


def test_without_a_card_nothing_is_measured(scene):
    engine = scene[0].engine.model_copy(update={"kind": "sglang", "device": "cuda"})
    for config in (scene[0], scene[0].model_copy(update={"engine": engine})):
        assert fitting.card_of(config) is None


def test_the_runs_file_has_what_was_asked_and_not_what_a_plan_made_of_it(tmp_path, monkeypatch):
    # A resumed run plans anew; what is planned would count as the user's wish there.
    def planned(config):
        return config.model_copy(
            update={"engine": config.engine.model_copy(update={"kv_tokens": 4096})}
        )

    monkeypatch.setattr("sectow_fast.learn.memory.settled", planned)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        small = ["--rounds", "0", "--coldstart.caption_steps", "1", "--coldstart.batch", "2"]
        small += ["--coldstart.defender_steps", "1", "--coldstart.attacker_steps", "0"]
        small += ["--model.hidden_size", "16", "--model.layers", "1", "--sandbox.suite_size", "2"]
        small += [
            "--evaluate.attacker_cases",
            "2",
            "--evaluate.leak_attacks",
            "1",
            "--threads",
            "1",
        ]
        assert train.main([*small, "--plain", "--out", str(tmp_path / "run")]) == 0
    finally:
        torch.use_deterministic_algorithms(before)
    assert "kv_tokens = 4096" not in (tmp_path / "run" / "config.toml").read_text()
