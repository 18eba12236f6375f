"""A player's model is saved whole or not at all."""

from __future__ import annotations

import contextlib
import resource
from types import SimpleNamespace

import pytest
import torch

from sectow_fast import train
from sectow_fast.config import Config, SandboxConfig
from sectow_fast.data.sandbox.stage import SandboxStage
from sectow_fast.game.player import Player
from sectow_fast.game.schedule import schedule
from sectow_fast.keeper import Keeper
from sectow_fast.learn.leaving import RankLeft
from sectow_fast.learn.ranks import ALONE
from sectow_fast.match import Match
from sectow_fast.players import Players
from sectow_fast.report.console import LiveConsole
from sectow_fast.rounds import MEASURES, RoundRecord
from sectow_fast.run_folder import RunFolder, kept_at
from sectow_fast.ties import continued
from sectow_fast.types import UserError


class Still:
    """An engine that draws nothing."""

    def sync(self, model):
        pass


class Playing:
    """As much of a role as a checkpoint sees."""

    def __init__(self, last_good):
        self.last_good = last_good

    def state(self):
        return {"some": "state"}


def two_players():
    """As much of `Players` as a checkpoint sees; the two models are not of one shape."""
    attacker, defender = (
        Player(model=torch.nn.Linear(size, 2), engine=Still(), codec=None) for size in (3, 4)
    )
    return SimpleNamespace(
        attacker=attacker,
        defender=defender,
        ranks=ALONE,
        training=None,
        moments={},
        resume_training=lambda saved: None,
    )


@pytest.mark.parametrize("phase", ["attack", "defend"])
def test_the_weights_that_a_player_may_go_back_to_are_kept_and_read_again(tmp_path, phase):
    def keeper():
        players = two_players()
        match = Match(config=Config(), stage=None, cast=players)
        console = LiveConsole(title="t", rounds=1, plain=True)
        return Keeper(match, players, folder=RunFolder(tmp_path), console=console, tie={})

    def filled(player, value):
        return {name: torch.full_like(one, value) for name, one in player.weights().items()}

    (tmp_path / "checkpoints").mkdir()
    first = keeper()
    match, cast = first.match, first.match.cast
    match.cursor = schedule(match.config).index((1, phase))
    assert match.phase == phase
    mine = cast.attacker if phase == "attack" else cast.defender
    match.role, match.cold_attacker = Playing(filled(mine, 1.5)), filled(cast.attacker, 2.5)
    first.save()
    first._checkpoints.wait()
    again = keeper().match
    assert list(again.last_good) == list(mine.weights()) and again.role_state == {"some": "state"}
    for found, value, player in (
        (again.last_good, 1.5, mine),
        (again.cold_attacker, 2.5, cast.attacker),
    ):
        for name, one in player.weights().items():
            assert torch.equal(found[name], torch.full_like(one, value))


def test_what_a_finished_round_kept_is_held_against_its_checksum(tmp_path):
    """A later round's league reads it; that of the round under way may be written anew."""
    players = two_players()
    match = Match(config=Config(), stage=None, cast=players)
    tables = {name: {} for name in MEASURES}
    match.rounds = [RoundRecord(round=k, rates=tables, rates_t1=tables) for k in (0, 1)]
    kept = [tmp_path / kept_at(k) / "defender" / "weights" for k in (0, 1, 2)]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_text("as it was")
    (tmp_path / "checkpoints").mkdir()
    console = LiveConsole(title="t", rounds=1, plain=True)
    keeper = Keeper(match, players, folder=RunFolder(tmp_path), console=console, tie={})
    keeper.save()
    keeper._checkpoints.wait()

    def changes():
        return continued(tmp_path / "checkpoints", {}, accept=True)

    kept[2].write_text("changed")
    assert changes() == []
    for path in kept[:2]:
        path.write_text("changed")
        assert changes() == [f"{path}: found other bytes than were written"]
        path.write_text("as it was")


def test_what_a_given_model_was_trained_on_is_read_before_anything_is_trained(tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    (given / "trained_on.json").write_text("[]")
    config = Config(model={"defender": str(given)})
    players = two_players()
    match = Match(config=config, stage=None, cast=players)
    console = LiveConsole(title="t", rounds=1, plain=True)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"trained_on\.json: found no record of training"):
        Keeper(match, players, folder=RunFolder(tmp_path), console=console, tie={})


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
