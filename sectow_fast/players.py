"""The cast of a match: players on their devices, with engines, and how each of them is trained."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.distributed.fsdp import FSDPModule

from sectow_fast.config import Config, GRPOConfig
from sectow_fast.engine.kinds import EngineSetup
from sectow_fast.engine.protocol import Engine
from sectow_fast.engine.ranked_engine import RankedEngine
from sectow_fast.engine.registry import engine_kind
from sectow_fast.engine.weight_sync import checkpoint_weights
from sectow_fast.game.player import Player
from sectow_fast.game.rewards import REWARD_TERMS
from sectow_fast.learn import attention
from sectow_fast.learn.checkpoint import Saved
from sectow_fast.learn.grpo import banded_loss
from sectow_fast.learn.learners import GRPOLearner, SFTPupil
from sectow_fast.learn.lora import merged_state
from sectow_fast.learn.optim import make_optimizer, moments_of, put_moments
from sectow_fast.learn.placement import give_back, training_device
from sectow_fast.learn.policy import Policy, make_policy
from sectow_fast.learn.ranks import ALONE, Ranks
from sectow_fast.learn.selftest import check_packing, rollout_gaps
from sectow_fast.learn.sharding import check_replicas, is_sharded, on_host, whole_weights
from sectow_fast.protocols import Stage
from sectow_fast.run_folder import kept_at
from sectow_fast.types import Prompt, RoleName, UserError

MOMENTS = "optimizer-"  # and a player's name: a group of tensors in a checkpoint


def check_settings(config: Config) -> None:
    """UserError where what is registered does not know a setting; before a plan is made of them."""
    for name, phase in (("attack", config.attack), ("defend", config.defend)):
        try:
            banded_loss(phase)
        except ValueError as error:
            raise UserError(f"{name}.loss.{error} (with {name}.mismatch_token)") from None
        for term in phase.terms:
            REWARD_TERMS.get(term, setting=f"{name}.terms")


def check(config: Config, ranks: Ranks = ALONE) -> None:
    """UserError where players cannot be made in this environment; before anything is written."""
    kind = engine_kind(config)
    kind.check(config, ranks.world)
    check_settings(config)
    cuda = training_device(config.learn.device).type == "cuda"
    attention.load(attention.chosen(config.learn.attention, cuda=cuda), cuda=cuda)
    if kind.shares_weights and config.learn.offload == "on":
        raise UserError(
            f"learn.offload: found on with engine.kind {config.engine.kind}, expected auto or off:"
            " that engine draws from the trainer's own weights, which must stay where it computes"
        )
    check_replicas(config.learn.replicas, ranks.world)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is being trained, for a checkpoint: the model and its optimizer. kept_as: the player
    whose next phase goes on with the moments; "" where they end with this one."""

    model: Any
    optimizer: torch.optim.Optimizer
    kept_as: str


class Players:
    """`match.Cast` with real models. folder: the run's, where round 0 is kept.

    training: of the phase under way; None between phases. moments: of players whose next phase goes
    on with them (`learn.keep_optimizer`), in host memory.
    """

    def __init__(self, config: Config, stage: Stage, *, folder: Path, ranks: Ranks = ALONE) -> None:
        self.config, self.ranks, self.folder = config, ranks, folder
        self.device = training_device(config.learn.device)
        self.training: Training | None = None
        self.moments: dict[str, dict[str, torch.Tensor]] = {}
        self._stage = stage
        self._offloads = config.learn.offload == "on"  # `auto` is settled before
        self._samples = _self_test_prompts(stage)
        self._saved: Saved | None = None
        self._round_zero: Player | None = None
        self._kind = engine_kind(config)
        self.engines = self._kind.make(
            EngineSetup(
                config=config,
                codec=stage.codec,
                folder=folder / ("engine" if ranks.first else f"engine-{ranks.rank}"),
                write_folder=stage.describe,
                weights_of=lambda model: checkpoint_weights(model, merged_state(model)),
            )
        )
        try:
            self.engines.start()  # while the device is empty
            self.defender = self._trained("defender", stage.defender())
            self.attacker = self._trained("attacker", stage.attacker())
        except BaseException:
            self.engines.close()
            raise

    @property
    def device_name(self) -> str:
        """As `summary.json` has it."""
        cuda = self.device.type == "cuda"
        return torch.cuda.get_device_name(self.device) if cuda else "cpu"

    # ---- players

    def fork_attacker(self) -> None:
        """See `match.Cast`."""
        self.attacker.model.load_state_dict(self.defender.model.state_dict())
        self.attacker.engine.sync(self.attacker.model)

    def save_round(self, k: int) -> None:
        """See `match.Cast`. An ablation starts from round 0, the yardstick of attacks."""
        for name, player in (("defender", self.defender), ("attacker", self.attacker)):
            self.keep(player, self._kept(name, k))
        self.ranks.barrier()

    def round_zero(self) -> Player:
        """See `match.Cast`."""
        if self._round_zero is None:
            self._round_zero = self.as_of("defender", 0)
        return self._round_zero

    def as_of(self, role: RoleName, k: int) -> Player:
        """See `match.Cast`."""
        model = self._stage.load(self._kept(role, k)).requires_grad_(False).eval()
        if self._kind.shares_weights:
            model.to(self.device)  # other engines are sent its weights from the host
        return self._player(f"{role}-{k}", model, model, None)

    def keep(self, player: Player, folder: Path) -> None:
        """Save a player's model without shards and adapters. All ranks must come.

        UserError where the folder cannot be written.
        """
        player.engine.sleep()  # whole tensors need a place on the device
        weights = None
        if isinstance(player.policy, FSDPModule) or self.config.learn.lora_rank:
            named = merged_state(player.model, keep_vars=True).items()
            weights = on_host(named, keep=self.ranks.first)
        if not self.ranks.first:
            return
        try:
            self._stage.save(player.model, folder, weights=weights)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{folder}: the model could not be written ({error}); make room there and go on"
                " with --resume"
            ) from None

    def close(self) -> None:
        """End the engines; their processes outlive nothing of ours."""
        self.engines.close()

    def _kept(self, name: str, k: int) -> Path:
        return self.folder / kept_at(k) / name

    def _trained(self, name: str, model: Any) -> Player:
        """A player that learns: placed, self-tested, with an engine to draw from it."""
        learn, ranks, shares = self.config.learn, self.ranks, self._kind.shares_weights
        drawn = model
        if shares and is_sharded(learn, world=ranks.world, apart=False):
            drawn = copy.deepcopy(model).to(self.device)  # a share of the weights draws nothing
        policy = make_policy(
            model,
            self._stage.codec,
            learn,
            ranks=ranks,
            dummy=next((p for p in self._samples if p.images), None),
            apart=not shares,
            offload=self._offloads,
            device=self.device,
        )
        check_packing(policy, self._samples, getattr(torch, learn.dtype))
        return self._player(name, model, drawn, policy)

    def _player(self, name: str, model: Any, drawn: Any, policy: Policy | None) -> Player:
        gaps = None
        if any(hasattr(p, "full_tensor") for p in drawn.parameters()):
            gaps = functools.partial(rollout_gaps, policy)
        engine: Engine = self.engines.of(name, drawn, gaps)
        if self.ranks.world > 1 or drawn is not model:
            engine = RankedEngine(engine, self.ranks, whole=whole_weights)
        return Player(model=model, engine=engine, codec=self._stage.codec, policy=policy)

    # ---- training

    def learner(self, player: Player, config: GRPOConfig) -> GRPOLearner:
        """See `match.Cast`. The reference of a KL term is the player as it was at round 0."""
        reference, name = None, "attacker" if player is self.attacker else "defender"
        if config.loss.kl_coef:
            model = self._stage.load(self._kept(name, 0)).requires_grad_(False).eval()
            # It is asked for each row once per batch, so nothing of its tower is kept.
            plain = self.config.learn.model_copy(update={"lora_rank": 0, "picture_gib": 0.0})
            reference = make_policy(
                model,
                self._stage.codec,
                plain,
                ranks=self.ranks,
                apart=not self._kind.shares_weights,
                offload=True,  # it rests on the host, and comes to the device a block at a time
                device=self.device,
            )
        kept_as = name if self.config.learn.keep_optimizer else ""
        optimizer = self._optimizer(
            player, config.lr, betas=(0.9, 0.95), weight_decay=0.0, kept_as=kept_as
        )
        return GRPOLearner(
            policy=player.policy, optimizer=optimizer, config=config, reference=reference
        )

    @contextlib.contextmanager
    def pupil(self, player: Player, *, lr: float) -> Iterator[SFTPupil]:
        """See `match.Cast`."""
        yield SFTPupil(
            policy=player.policy,
            optimizer=self._optimizer(player, lr, betas=(0.9, 0.98), weight_decay=0.01),
            tokens_per_batch=self.config.coldstart.tokens_per_batch,
        )
        give_back(self.device)

    def resume_training(self, saved: Saved) -> None:
        """The next phase's optimizer goes on as `saved` had it."""
        self._saved = saved
        for name, player in (("defender", self.defender), ("attacker", self.attacker)):
            if moments := saved.moments(player.model, MOMENTS + name):
                self.moments[name] = on_cpu(moments)

    def end_training(self) -> None:
        """The phase is over, and its optimizer with it, but for moments that are to be kept."""
        if (ended := self.training) is not None and ended.kept_as:
            self.moments[ended.kept_as] = on_cpu(moments_of(ended.optimizer, ended.model))
        self.training = None

    def _optimizer(
        self,
        player: Player,
        lr: float,
        *,
        betas: tuple[float, float],
        weight_decay: float,
        kept_as: str = "",
    ) -> torch.optim.Optimizer:
        optimizer = make_optimizer(player.model, lr, betas=betas, weight_decay=weight_decay)
        moments = self.moments.pop(kept_as, {})
        if self._saved is not None:  # of this phase, where it was under way
            moments = self._saved.moments(player.model) or moments
            self._saved = None
        put_moments(optimizer, player.model, moments)
        self.training = Training(model=player.model, optimizer=optimizer, kept_as=kept_as)
        return optimizer


def on_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors in host memory; sharded ones stay sharded."""
    return {name: one.to("cpu") for name, one in tensors.items()}


def _self_test_prompts(stage: Stage) -> list[Prompt]:
    """One prompt with an image, one with several and one without, where the world has them."""
    labels = ("harmless", "unsafe")
    cases = [case for label in labels for case in stage.world.train_cases(label)]
    found = {min(len(case.images), 2): case for case in reversed(cases)}
    return stage.codec.encode(list(found.values()))
