"""From a model to a player: on its device, with its engine and, where it is trained, its policy."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from sectow_fast.config import Config
from sectow_fast.engine.kinds import EngineSetup
from sectow_fast.engine.protocol import Engine
from sectow_fast.engine.ranked_engine import RankedEngine
from sectow_fast.engine.registry import engine_kind, offloads
from sectow_fast.engine.weight_sync import checkpoint_weights
from sectow_fast.game.player import Player
from sectow_fast.learn import attention
from sectow_fast.learn.lora import merged
from sectow_fast.learn.placement import Offload, training_device
from sectow_fast.learn.policy import make_policy
from sectow_fast.learn.ranks import ALONE, Ranks
from sectow_fast.learn.selftest import check_packing
from sectow_fast.learn.sharding import shard, whole_weights
from sectow_fast.types import Prompt, UserError


def check(config: Config, ranks: Ranks = ALONE) -> None:
    """UserError where players cannot be made in this environment; before anything is written."""
    kind = engine_kind(config)
    kind.check(config)
    cuda = training_device(config.learn.device).type == "cuda"
    attention.load(attention.chosen(config.learn.attention, cuda=cuda), cuda=cuda)
    if kind.shares_weights and config.learn.offload == "on":
        raise UserError(
            f"learn.offload: found on with engine.kind {config.engine.kind}, expected auto or off:"
            " that engine draws from the trainer's own weights, which must stay where it computes"
        )
    if ranks.world > 1 and offloads(config):
        raise UserError(
            f"learn.offload on {ranks.world} ranks: found {config.learn.offload} (and a model that"
            " does not fit without), expected off: sharded weights cannot rest in host memory yet;"
            " use larger or more GPUs"
        )


class Players:
    """Makes a match's players. `stage` is a data package's stage: world, codec, models."""

    def __init__(self, config: Config, stage: Any, *, folder: Path, ranks: Ranks) -> None:
        self.config, self.codec, self.ranks = config, stage.codec, ranks
        self.device = training_device(config.learn.device)
        self._stage = stage
        self._offloads = offloads(config)
        self._samples = _self_test_prompts(stage)
        self._kind = engine_kind(config)
        self.engines = self._kind.make(
            EngineSetup(
                config=config,
                codec=self.codec,
                folder=folder / ("engine" if ranks.first else f"engine-{ranks.rank}"),
                write_folder=lambda path: stage.save(stage.defender(), path),
                weights_of=lambda model: checkpoint_weights(merged(model)),
            )
        )

    @property
    def device_name(self) -> str:
        """As `summary.json` has it."""
        cuda = self.device.type == "cuda"
        return torch.cuda.get_device_name(self.device) if cuda else "cpu"

    def trained(self, name: str, model: Any) -> Player:
        """A player that learns: self-tested, sharded over the ranks, at rest where it offloads."""
        ranks, drawn = self.ranks, model.to(self.device)
        dummy = next((p for p in self._samples if p.image is not None), None)
        policy = make_policy(model, self.codec, self.config.learn, ranks=ranks, dummy=dummy)
        check_packing(policy, self._samples)
        if ranks.world > 1:
            if self._kind.shares_weights:
                drawn = copy.deepcopy(model)  # a share of the weights can draw nothing
            shard(policy)
        if self._offloads:
            policy.offload = Offload(model, self.device)
            policy.offload.rest()
        return self._player(name, model, drawn, policy)

    def frozen(self, name: str, folder: Path) -> Player:
        """A player as a folder holds it, never trained."""
        model = self._stage.load(folder).requires_grad_(False).eval()
        if not self._offloads:
            model.to(self.device)
        return self._player(name, model, model, None)

    def _player(self, name: str, model: Any, drawn: Any, policy: Any) -> Player:
        engine: Engine = self.engines.of(name, drawn)
        if self.ranks.world > 1:
            engine = RankedEngine(engine, self.ranks, whole=whole_weights)
        return Player(model=model, engine=engine, codec=self.codec, policy=policy)

    def reference(self, folder: Path) -> Any:
        """A folder's model as the policy of a KL term."""
        model = self._stage.load(folder).requires_grad_(False).eval().to(self.device)
        plain = self.config.learn.model_copy(update={"lora_rank": 0})
        return make_policy(model, self.codec, plain)

    def keep(self, player: Player, folder: Path) -> None:
        """Save a player's model without shards and adapters. All ranks must come."""
        model = player.model
        if self.ranks.world > 1:
            weights = whole_weights(model)
            if not self.ranks.first:
                return
            model = self._stage.defender()
            model.load_state_dict(weights)
        self._stage.save(merged(model), folder)


def _self_test_prompts(stage: Any) -> list[Prompt]:
    """One prompt with an image and one without, where the world has both."""
    labels = ("harmless", "unsafe")
    cases = [case for label in labels for case in stage.world.train_cases(label)]
    found = {case.image is None: case for case in reversed(cases)}
    return stage.codec.encode(list(found.values()))
