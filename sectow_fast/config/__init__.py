"""Every setting, with its default and its reason. Imports nothing of ours.

`phases.py` has the settings of what is played, `sections.py` of what it is played with.

Files (TOML) and flags (`--section.field VALUE`) are merged by settings.py; an unknown key is an
error that names the nearest known one. Defaults are the sandbox's; presets/*.toml hold others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from sectow_fast.extras import require

require("train")  # before the imports that would fail

from pydantic import BaseModel, Field, model_validator  # noqa: E402

from sectow_fast.config.phases import (  # noqa: E402
    AttackConfig,
    ColdStartConfig,
    DefendConfig,
    EvaluateConfig,
    GameConfig,
    GRPOConfig,
    HarvestConfig,
    LossConfig,
    MonitorConfig,
)
from sectow_fast.config.sections import (  # noqa: E402
    DataConfig,
    EngineConfig,
    LearnConfig,
    ModelConfig,
    SandboxConfig,
    Section,
)

__all__ = [
    "ABLATIONS",
    "AttackConfig",
    "ColdStartConfig",
    "Config",
    "DataConfig",
    "DefendConfig",
    "EngineConfig",
    "EvaluateConfig",
    "GRPOConfig",
    "GameConfig",
    "HarvestConfig",
    "LearnConfig",
    "LossConfig",
    "ModelConfig",
    "MonitorConfig",
    "SandboxConfig",
    "ablated",
]

Ablation = Literal[
    "no-iteration",
    "no-defender-monitor",
    "no-attacker-monitor",
    "no-attacker-gates",
    "no-attacker-filter",
    "no-attacker-controller",
    "no-cold-start",
    "no-harmless",
]

# The three places where the quality of attacks is watched: reward, filter and controller.
ATTACKER_MONITOR: dict[str, dict[str, Any]] = {
    "no-attacker-gates": {
        "attack.gates": False,
        "attack.diversity_weight": 0.0,
        "monitor.diversity_weight_raised": 0.0,
    },
    "no-attacker-filter": {"harvest.filter": False},
    "no-attacker-controller": {
        "monitor.watch_attacker": False,
        "attack.on_collapse": "keep",
        "attack.entropy_min": 0.0,
    },
}
# Each ablation stands for these settings.
ABLATIONS: dict[str, dict[str, Any]] = {
    "no-iteration": {"iterate": False},
    "no-defender-monitor": {"monitor.watch_defender": False},
    "no-attacker-monitor": {k: v for part in ATTACKER_MONITOR.values() for k, v in part.items()},
    **ATTACKER_MONITOR,
    "no-cold-start": {"coldstart.attacker_steps": 0},
    "no-harmless": {"defend.harmless_share": 0.0, "monitor.harmless_share_raised": 0.0},
}
SGLANG_TIS_CAP = 2.0  # the bound of exp(trainer - rollout): our choice


class Config(Section):
    """A whole run. `seed` decides the world, the models and every draw."""

    plugins: tuple[str, ...] = Field(
        (), description="files and modules that register things, imported before all else is read"
    )
    preset: str = "sandbox"
    seed: int = Field(0, ge=0)
    rounds: int = Field(3, ge=0, le=10_000, description="K, iterations of the tug-of-war")
    threads: int = Field(0, ge=0, le=4096, description="CPU threads; 0: all cores")
    save_every: int = Field(40, ge=1, description="steps between two checkpoints")
    attacker: Literal["grpo", "self-instruct"] = "grpo"
    defender: Literal["grpo", "sft"] = "grpo"
    iterate: bool = Field(True, description="false: one long defence on the existing data alone")
    query_budget: int | None = Field(
        None,
        gt=0,
        description="defender replies that attack phase and harvest of a round may ask for"
        " together; none: no bound",
    )
    ablate: tuple[Ablation, ...] = Field((), description="names for settings; see ABLATIONS")
    reveal: bool = Field(False, description="show attack texts in the report")
    model: ModelConfig = ModelConfig()
    sandbox: SandboxConfig = SandboxConfig()
    data: DataConfig = DataConfig()
    coldstart: ColdStartConfig = ColdStartConfig()
    attack: AttackConfig = AttackConfig()
    harvest: HarvestConfig = HarvestConfig()
    defend: DefendConfig = DefendConfig()
    monitor: MonitorConfig = MonitorConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    game: GameConfig = GameConfig()
    learn: LearnConfig = LearnConfig()
    engine: EngineConfig = EngineConfig()

    @property
    def attack_queries(self) -> int | None:
        """How many of a round's defender replies its attack phase may ask for; None: no bound."""
        if self.query_budget is None:
            return None
        return int(self.query_budget * self.attack.query_share)

    @model_validator(mode="after")
    def _check(self) -> Config:
        for name, key, value in ablated(self.ablate):
            section, _, field = key.rpartition(".")
            found = getattr(getattr(self, section) if section else self, field)
            if found != value:
                raise ValueError(
                    f"ablate {name} sets {key} to {value}: found {key} {found} beside it; leave one"
                    " of the two out"
                )
        if self.attack.on_collapse != "keep" and not self.monitor.watch_attacker:
            raise ValueError(
                f"attack.on_collapse {self.attack.on_collapse}: found monitor.watch_attacker false,"
                " which never finds a collapse; set it to true, or on_collapse to keep"
            )
        self._check_budget()
        if self.learn.lora_rank and self.model.defender is None:
            raise ValueError(
                f"learn.lora_rank {self.learn.lora_rank} has no trained model to adapt; give one by"
                " model.defender (a sandbox run leaves one in coldstart/defender)"
            )
        return self

    def _check_budget(self) -> None:
        budget, attack = self.query_budget, self.attack
        if budget is None:
            return
        if budget < self.harvest.replies:
            raise ValueError(
                f"query_budget {budget} is under harvest.replies {self.harvest.replies}: a harvest"
                " could not try one attack"
            )
        trains = self.attacker == "grpo" and self.iterate and attack.steps > 0
        if trains and (self.attack_queries or 0) < attack.step_queries:
            raise ValueError(
                f"query_budget {budget} x attack.query_share {attack.query_share:g} is under the"
                f" {attack.step_queries} replies that one step of attack may ask for; raise it, or"
                " lower attack.prompts, attack.group_size, attack.replies or attack.refill_turns"
            )
        if trains and budget - (self.attack_queries or 0) < self.harvest.replies:
            raise ValueError(
                f"attack.query_share {attack.query_share:g} of query_budget {budget} leaves the"
                f" harvest fewer than harvest.replies {self.harvest.replies}: it could not try one"
                " attack; lower the share"
            )

    @model_validator(mode="before")
    @classmethod
    def _correct_for_the_engine(cls, values: Any) -> Any:
        """Another program draws the tokens, so truncated importance sampling is on by default."""
        if not isinstance(values, dict):
            return values
        engine = values.get("engine")
        kind = engine.get("kind") if isinstance(engine, dict) else getattr(engine, "kind", "torch")
        if kind == "torch":
            return values
        capped = {}
        for name in ("attack", "defend"):
            phase = values.get(name, {})
            loss = phase.get("loss", {}) if isinstance(phase, dict) else None
            if isinstance(loss, dict):
                capped[name] = phase | {"loss": {"tis_cap": SGLANG_TIS_CAP} | loss}
        return values | capped

    @model_validator(mode="before")
    @classmethod
    def _ablate(cls, values: Any) -> Any:
        """Put each ablation's settings in place where they are not given; `_check` refuses others.

        An unknown name is refused by its own field.
        """
        if not isinstance(values, dict):
            return values
        values = dict(values)
        names = values.get("ablate")
        for _, key, value in ablated(names if isinstance(names, list | tuple) else ()):
            section, _, field = key.rpartition(".")
            given = values.get(section, {})
            if not section:
                values.setdefault(field, value)
            elif isinstance(given, dict):
                values[section] = {field: value} | given
            elif isinstance(given, BaseModel) and field not in given.model_fields_set:
                values[section] = given.model_copy(update={field: value})
        return values


def ablated(names: Sequence[Any]) -> Iterator[tuple[str, str, Any]]:
    """(ablation, setting, its value) of everything that the named ablations set."""
    for name in names:
        for key, value in ABLATIONS.get(str(name), {}).items():
            yield str(name), key, value
