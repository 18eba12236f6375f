"""Every setting, with its default and its reason. Imports nothing of ours.

`phases.py` has the settings of what is played, `sections.py` of what it is played with.

Files (TOML) and flags (`--section.field VALUE`) are merged by settings.py; an unknown key is an
error that names the nearest known one. Defaults are the sandbox's; presets/*.toml hold others.
"""

from __future__ import annotations

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
]

Ablation = Literal[
    "no-iteration", "no-defender-monitor", "no-attacker-monitor", "no-cold-start", "no-harmless"
]

# Each ablation stands for these settings.
ABLATIONS: dict[str, dict[str, Any]] = {
    "no-iteration": {"iterate": False},
    "no-defender-monitor": {"monitor.watch_defender": False},
    "no-attacker-monitor": {"monitor.watch_attacker": False},
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

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.learn.lora_rank and self.model.defender is None:
            raise ValueError(
                f"learn.lora_rank {self.learn.lora_rank} has no trained model to adapt; give one by"
                " model.defender (a sandbox run leaves one in coldstart/defender)"
            )
        return self

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
        """Put each ablation's settings in place; an unknown name is refused by its own field."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        names = values.get("ablate")
        for name in names if isinstance(names, list | tuple) else ():
            for key, value in ABLATIONS.get(str(name), {}).items():
                section, _, field = key.rpartition(".")
                if not section:
                    values[field] = value
                    continue
                given = values.get(section, {})
                changed = {field: value}
                if isinstance(given, dict):
                    values[section] = given | changed
                elif isinstance(given, BaseModel):
                    values[section] = given.model_copy(update=changed)
        return values
