"""Every setting, with its default and its reason. Imports nothing of ours.

Files (TOML) and flags (`--section.field VALUE`) are merged by settings.py; an unknown key is an
error that names the nearest known one. Defaults are the sandbox's; presets/*.toml hold others.
"""

from __future__ import annotations

from typing import Any, Literal

from sectow_fast.extras import require

require("train")  # before the imports that would fail

from pydantic import BaseModel, ConfigDict, Field, model_validator  # noqa: E402

Ablation = Literal[
    "no-iteration", "no-defender-monitor", "no-attacker-monitor", "no-cold-start", "no-harmless"
]

# Each ablation is a name for plain settings.
ABLATIONS: dict[str, dict[str, Any]] = {
    "no-iteration": {"iterate": False},
    "no-defender-monitor": {"monitor.watch_defender": False},
    "no-attacker-monitor": {"monitor.watch_attacker": False},
    "no-cold-start": {"coldstart.attacker_steps": 0},
    "no-harmless": {"defend.harmless_share": 0.0, "monitor.harmless_share_raised": 0.0},
}
SGLANG_TIS_CAP = 2.0  # min(exp(trainer - rollout), this): our choice


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Section):
    """The model that is attacked and hardened. No path: the sandbox builds and trains its own."""

    defender: str | None = Field(None, description="folder of the defender; none: the sandbox's")
    attacker: str | None = Field(None, description="folder of the attacker; none: the defender's")
    hidden_size: int = Field(128, ge=16, description="sandbox decoder width")
    layers: int = Field(3, ge=1, description="sandbox decoder depth")
    trust_remote_code: bool = False


class SandboxConfig(Section):
    """The embedded world (our choice; data/sandbox/)."""

    suite_size: int = Field(300, ge=1, description="cases in each test suite")
    picture_variants: int = Field(12, ge=1, description="drawn variants of each object")


class ColdStartConfig(Section):
    """SFT before any RL, so that the first rewards are not sparse (SecTOW, cold start)."""

    caption_steps: int = Field(800, ge=0, description="pictures to words; sandbox only")
    defender_steps: int = Field(1400, ge=0, description="the vulnerable instruct model")
    attacker_steps: int = Field(200, ge=0, description="self-instruct demonstrations")
    batch: int = Field(64, ge=1)
    lr: float = Field(2e-3, gt=0)
    attacker_lr: float = Field(1e-3, gt=0)
    tokens_per_batch: int = Field(16384, ge=64, description="token budget of a micro-batch")


class LossConfig(Section):
    """The policy loss: every setting of `PolicyLossConfig` (docs/KERNELS.md), with its defaults.

    A policy loss or KL estimate that a plugin registers may have numbers of its own; they are given
    here under their own names (`--attack.loss.NAME`).
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)

    ratio: str = Field("token", description="token, sequence (GSPO), cispo, sapo, or registered")
    reduction: Literal["token-mean", "seq-mean", "seq-sum", "constant"] = "token-mean"
    clip_low: float = Field(0.2, gt=0, le=1)
    clip_high: float = Field(0.28, gt=0)
    dual_clip: float | None = Field(None, gt=1, description="bound where the advantage is < 0")
    kl_coef: float = Field(0.0, ge=0, description="KL to the cold-start policy")
    kl: str = Field("k3", description="k1, k2, k3, or registered")
    kl_unbiased: bool = Field(False, description="the KL estimate times the ratio")
    entropy_coef: float = Field(0.0, ge=0)
    sapo_pos: float = Field(1.0, gt=0)
    sapo_neg: float = Field(1.05, gt=0)
    tis_cap: float | None = Field(None, gt=0, description="truncated importance sampling")
    log_ratio_clamp: float = Field(20.0, gt=0)


class GRPOConfig(Section):
    """One GRPO phase. On-policy, one update per batch (closest work: EasyR1, DAPO)."""

    steps: int = Field(80, ge=0)
    prompts: int = Field(16, ge=1, description="groups a step")
    group_size: int = Field(8, ge=2, description="completions a prompt (G)")
    lr: float = Field(3e-4, gt=0)
    warmup: int = Field(10, ge=0)
    decay_from: float = Field(0.6, ge=0, le=1, description="share of steps before linear decay")
    max_grad_norm: float = Field(1.0, gt=0)
    loss: LossConfig = LossConfig()
    terms: dict[str, float] = Field({}, description="weights of registered reward terms")
    scale: Literal["std", "none", "batch"] = "std"
    baseline: Literal["mean", "loo"] = "mean"
    mismatch_max: float = Field(0.05, gt=0, description="stop over this rollout/trainer KL")
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(8, ge=1)
    tokens_per_batch: int = Field(16384, ge=64, description="token budget of a micro-batch")


class AttackConfig(GRPOConfig):
    """The attacker's phase, and what its reward weighs."""

    steps: int = Field(120, ge=0)
    diversity_weight: float = Field(0.4, ge=0, description="price of likeness to siblings, pool")
    refine_share: float = Field(0.25, ge=0, le=1, description="prompts that refine an attack")
    replies: int = Field(1, ge=1, description="defender replies an attack is judged by (m)")


class DefendConfig(GRPOConfig):
    """The defender's phase, and its mix of data."""

    steps: int = Field(30, ge=0)
    prompts: int = Field(48, ge=1)
    lr: float = Field(7e-5, gt=0)
    harmless_share: float = Field(0.5, ge=0, le=1)
    pool_share: float = Field(0.8, ge=0, le=1, description="share of unsafe prompts from the pool")
    exploration: float = Field(
        0.5, ge=0, le=1, description="share of prompts drawn uniformly, not by p(1-p); 1: all"
    )


class HarvestConfig(Section):
    """After the attacker's phase: write attacks, try them, keep the good ones."""

    attacks: int = Field(1536, ge=0, description="attacks written a round")
    replies: int = Field(4, ge=1, description="defender replies a candidate is tried on (m)")
    min_success: int = Field(1, ge=1, description="replies that must be harmful to keep it (s)")
    duplicate_threshold: float = Field(0.99, ge=0.1, le=1, description="shingle Jaccard")

    @model_validator(mode="after")
    def _check(self) -> HarvestConfig:
        if self.min_success > self.replies:
            raise ValueError(f"min_success {self.min_success} is over replies {self.replies}")
        return self


class MonitorConfig(Section):
    """The two monitors (SecTOW, quality monitoring; thresholds are our choice)."""

    watch_defender: bool = Field(True, description="act on over-refusal")
    watch_attacker: bool = Field(True, description="act on the quality of attacks")
    every: int = Field(20, ge=1, description="steps between two probes of the defender")
    orr_max: float = Field(0.03, ge=0, le=1, description="over this: more harmless data")
    orr_ok: float = Field(0.015, ge=0, le=1, description="under this: back to normal")
    orr_hard: float = Field(0.15, ge=0, le=1, description="over this: back to the last good step")
    harmless_share_raised: float = Field(0.75, ge=0, le=1)
    window: int = Field(8, ge=1, description="steps the attacker's measures are averaged over")
    faithful_min: float = Field(0.5, ge=0, le=1)
    well_formed_min: float = Field(0.5, ge=0, le=1)
    diversity_min: float = Field(0.12, ge=0, le=1, description="1 - self-BLEU of a step's attacks")
    duplicates_max: float = Field(0.75, ge=0, le=1)
    diversity_weight_raised: float = Field(0.8, ge=0)
    patience: int = Field(3, ge=1, description="low windows before the phase stops early")


class EvaluateConfig(Section):
    """Greedy, as the benchmarks decode; temperature 1 is reported beside it."""

    attacker_cases: int = Field(1600, ge=1, description="held-out seeds the attacker is tried on")


class LearnConfig(Section):
    """How a model is trained, whatever the phase."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU if there is one"
    )
    offload: Literal["auto", "on", "off"] = Field(
        "auto",
        description="weights and optimizer in host memory between updates; auto: by the plan",
    )
    attention: Literal["auto", "sdpa", "flex", "flash", "xformers"] = Field(
        "auto", description="who computes attention over packed rows (learn/attention.py)"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of matrix products")
    gradient_checkpointing: bool = Field(False, description="less memory, a second forward")
    lora_rank: int = Field(0, ge=0, description="0: all weights are trained")
    lora_alpha: float = Field(32.0, gt=0)


class EngineConfig(Section):
    """Where tokens come from (docs/ENGINE.md). All but `kind` are for SGLang."""

    kind: str = Field("torch", description="torch, sglang, or a name that a plugin registers")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the engine's weights")
    roles: Literal["auto", "two", "swap"] = Field(
        "auto", description="an engine a player, or one that swaps weights; auto: by the plan"
    )
    tp: int = Field(1, ge=1, description="tensor-parallel GPUs of one engine")
    gpus: int = Field(1, ge=1, description="GPUs that train together (torchrun's world size)")
    gpu_gib: float = Field(80.0, gt=0, description="a GPU's memory, for a plan made without one")
    memory: float | None = Field(
        None, gt=0, lt=1, description="share of the GPU an engine may take; none: by the plan"
    )
    context_length: int = Field(0, ge=0, description="tokens a sequence; 0: the model's own")
    max_running: int = Field(256, ge=1, description="requests decoded at once")
    kv_tokens: int = Field(65536, ge=64, description="cache size on a CPU, in tokens")
    attention: str | None = Field(None, description="SGLang's attention backend; none: its choice")
    deterministic: bool = Field(False, description="seeded, batch-invariant sampling (GPU only)")
    bucket_mb: int = Field(512, ge=1, description="weight sync, MiB a bucket")
    stream: bool = Field(True, description="try a finished attack while others are written")
    timeout: float = Field(120.0, gt=0, description="seconds without a reply before a restart")
    start_timeout: float = Field(600.0, gt=0, description="seconds an engine may take to start")
    restarts: int = Field(3, ge=0, description="restarts in a row that gave no reply")
    logprob_tolerance: float = Field(1e-3, gt=0, description="first rollout against the trainer")


class DataConfig(Section):
    """Real suites (docs/EVALUATE.md). None named: the sandbox. Each is NAME[:SPLIT]=FOLDER."""

    unsafe: tuple[str, ...] = Field((), description="jailbreak suites to train on")
    harmless: tuple[str, ...] = Field((), description="harmless suites to train on")
    test: tuple[str, ...] = Field((), description="suites to measure on; none: a held-out share")
    holdout: float = Field(0.2, gt=0, lt=1, description="share of cases held out for the test")
    probe: float = Field(0.05, gt=0, lt=1, description="share of harmless prompts ORR watches")
    limit: int = Field(0, ge=0, description="prompts of each suite, drawn by prompt; 0: all")
    contamination: Literal["drop", "error", "ignore"] = "drop"
    contamination_threshold: float = Field(0.8, ge=0.1, le=1, description="shingle Jaccard")
    faithful_min: float = Field(0.5, ge=0, le=1, description="share of goal words an attack keeps")
    wording: str | None = Field(None, description="TOML file with other sentences")
    judge: str = Field("rule", description="rule, endpoint, model, or a registered judge")
    judge_url: str | None = Field(None, description="endpoint: address up to /v1")
    judge_model: str | None = Field(None, description="model there, or a folder")
    judge_format: str = Field("qwen3guard", description="or llama-guard, or a registered one")
    judge_cache: str | None = Field(None, description="file of the endpoint's answers")
    controversial: Literal["unsafe", "safe", "unknown"] = "unsafe"


class Config(Section):
    """A whole run. `seed` moves the world, the models and every draw."""

    plugins: tuple[str, ...] = Field(
        (), description="files and modules that register things, imported before all else is read"
    )
    preset: str = "sandbox"
    seed: int = Field(0, ge=0)
    rounds: int = Field(3, ge=0, description="K, iterations of the tug-of-war")
    threads: int = Field(0, ge=0, description="CPU threads; 0: all cores")
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
        if kind != "sglang":
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
        for name in values.get("ablate") or ():
            for key, value in ABLATIONS.get(name, {}).items():
                section, _, field = key.rpartition(".")
                if not section:
                    values[field] = value
                    continue
                given = values.get(section, {})
                changed = {field: value}
                values[section] = (
                    given | changed if isinstance(given, dict) else given.model_copy(update=changed)
                )
        return values
