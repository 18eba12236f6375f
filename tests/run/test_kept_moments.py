"""`learn.keep_optimizer`: a player's next phase goes on with the moments of its last one."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from rich.console import Console

from sectow_fast.config import Config, LearnConfig, ModelConfig, SandboxConfig
from sectow_fast.data.sandbox.stage import SandboxStage
from sectow_fast.keeper import Keeper
from sectow_fast.learn import checkpoint
from sectow_fast.learn.optim import moments_of
from sectow_fast.match import Match
from sectow_fast.players import Players
from sectow_fast.report.console import LiveConsole
from sectow_fast.run_folder import RunFolder


@pytest.fixture(scope="module")
def stage():
    return SandboxStage(
        Config(
            sandbox=SandboxConfig(suite_size=2, picture_variants=1),
            model=ModelConfig(hidden_size=16, layers=1),
        )
    )


class Run:
    """Players with a keeper, on the run's folder; what is trained is told step by step."""

    def __init__(self, stage: SandboxStage, folder, *, keep: bool = True) -> None:
        config = stage.config.model_copy(update={"learn": LearnConfig(keep_optimizer=keep)})
        torch.manual_seed(0)
        self.players = Players(config, stage, folder=folder)
        self.learner = None
        nowhere = Console(file=open(os.devnull, "w"))  # noqa: SIM115
        self.keeper = Keeper(
            Match(config=config, stage=stage, cast=self.players),
            self.players,
            folder=RunFolder(folder),
            console=LiveConsole(title="", rounds=0, plain=True, console=nowhere),
            tie={},
        )

    def enters(self, name: str) -> None:
        player = getattr(self.players, name)
        self.learner = self.players.learner(player, self.players.config.attack)

    def step(self, number: int) -> None:
        """One optimizer step of gradients that the number decides."""
        generator = torch.Generator().manual_seed(number)
        for parameter in self.players.training.model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        self.learner.optimizer.step()

    def saved(self, folder) -> set[str]:
        """Save, copy the folder as a kill would leave it; the groups of the checkpoint."""
        self.keeper.save()
        self.keeper._checkpoints.wait()
        shutil.copytree(self.keeper.folder.path, folder)
        return set(checkpoint.load(folder / "checkpoints").names)

    def weights(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}/{key}": one.clone()
            for name in ("defender", "attacker")
            for key, one in getattr(self.players, name).model.state_dict().items()
        }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


@pytest.fixture(scope="module")
def whole(stage, tmp_path_factory):
    """(the weights after a defence, an attack of two steps and a defence; folders of a kill in the
    attack and of one between attack and defence, with the groups of their checkpoints)"""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "run").mkdir()
    run = Run(stage, folder / "run")
    run.enters("defender")
    run.step(0)
    run.players.end_training()
    run.enters("attacker")
    run.step(1)
    within = run.saved(folder / "within")
    run.step(2)
    run.players.end_training()
    between = run.saved(folder / "between")
    run.enters("defender")
    run.step(3)
    return run.weights(), folder, within, between


def test_the_next_phase_goes_on_with_the_moments_or_begins_anew(stage, whole, tmp_path):
    run = Run(stage, tmp_path, keep=False)
    run.enters("defender")
    run.step(0)
    last = moments_of(run.learner.optimizer, run.players.defender.model)
    run.players.end_training()
    assert not run.players.moments
    run.enters("attacker")
    run.step(1)
    run.step(2)
    run.players.end_training()
    before = run.weights()
    run.enters("defender")
    assert not moments_of(run.learner.optimizer, run.players.defender.model)
    run.step(3)
    fresh = run.weights()
    assert not same(fresh, whole[0])
    # The same step by an optimizer that never ended is what a kept one gives.
    run.players.defender.model.load_state_dict(
        {key.partition("/")[2]: one for key, one in before.items() if key.startswith("defender/")}
    )
    for name, parameter in run.players.defender.model.named_parameters():
        run.learner.optimizer.state[parameter] = {
            key: last[f"{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq")
        }
    run.step(3)
    assert same(run.weights(), whole[0])


def test_a_run_killed_in_a_phase_goes_on_with_all_moments(stage, whole):
    weights, folder, within, _ = whole
    assert within == {"defender", "attacker", "optimizer", "optimizer-defender"}
    run = Run(stage, folder / "within")
    run.enters("attacker")
    run.step(2)
    run.players.end_training()
    run.enters("defender")
    run.step(3)
    assert same(run.weights(), weights)


def test_a_run_killed_between_two_phases_goes_on_with_all_moments(stage, whole):
    weights, folder, _, between = whole
    assert between == {"defender", "attacker", "optimizer-attacker", "optimizer-defender"}
    run = Run(stage, folder / "between")
    run.enters("defender")
    run.step(3)
    assert same(run.weights(), weights)
