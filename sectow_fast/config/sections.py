"""Settings of what the game is played with: models, data, training and engines."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _fits_a_machine(cls, value: Any) -> Any:
        """Seeds and counts go to torch and the C++ core, which have 64 bits for them."""
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError(f"found {str(value)[:24]}, expected a number below 2**63")
        return value


class ModelConfig(Section):
    """The model that is attacked and hardened. No path: the sandbox builds and trains its own."""

    defender: str | None = Field(None, description="folder of the defender; none: the sandbox's")
    attacker: str | None = Field(None, description="folder of the attacker; none: the defender's")
    hidden_size: int = Field(128, ge=16, description="sandbox decoder width")
    layers: int = Field(3, ge=1, description="sandbox decoder depth")
    trust_remote_code: bool = False
    max_pixels: int | None = Field(
        None, ge=1, description="a larger picture is scaled down; none: as the processor has it"
    )


class SandboxConfig(Section):
    """The embedded worlds (our choice; data/sandbox/ and data/dual/)."""

    world: Literal["small", "dual"] = Field(
        "small", description="small: forbidden objects; dual: objects for forbidden purposes"
    )
    suite_size: int = Field(300, ge=1, description="cases in each test suite")
    picture_variants: int = Field(12, ge=1, description="drawn variants of each object")


class LearnConfig(Section):
    """How a model is trained, whatever the phase."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU if there is one"
    )
    offload: Literal["auto", "on", "off"] = Field(
        "auto",
        description="weights and optimizer live in host memory; auto: by the plan",
    )
    attention: Literal["auto", "sdpa", "flex", "flash", "xformers"] = Field(
        "auto", description="what computes attention over packed rows (learn/attention.py)"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of matrix products")
    replicas: int = Field(
        1, ge=1, description="groups of ranks with a whole set of shards each (HSDP)"
    )
    freeze_tower: bool = Field(
        False, description="vision tower and projector stay as they are; adapters leave them so too"
    )
    picture_gib: float = Field(
        2.0, gt=0, description="host memory for processed pictures; a frozen tower's take as much"
    )
    gradient_checkpointing: bool = Field(False, description="less memory for a second forward")
    keep_optimizer: bool = Field(
        False, description="a player's GRPO phase goes on with the moments of its last one"
    )
    lora_rank: int = Field(0, ge=0, description="0: all weights are trained")
    lora_alpha: float = Field(32.0, gt=0)
    rank_timeout: float = Field(
        1800.0, gt=0, description="seconds that ranks wait for one that is alive but does not come"
    )


class EngineConfig(Section):
    """Where tokens come from (docs/ENGINE.md). All but `kind` are for SGLang."""

    kind: str = Field("torch", description="torch, sglang, or a name that a plugin registers")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the engine's weights")
    roles: Literal["auto", "two", "swap"] = Field(
        "auto", description="one engine per player, or one that swaps weights; auto: by the plan"
    )
    tp: int = Field(1, ge=1, description="tensor-parallel GPUs of one engine")
    gpus: int = Field(1, ge=1, description="GPUs that train together (torchrun's world size)")
    gpu_gib: float = Field(80.0, gt=0, description="a GPU's memory, for a plan made without one")
    memory: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the memory free at its start that an engine's weights and cache may"
        " take at most; none: SGLang's own",
    )
    context_length: int = Field(0, ge=0, description="tokens per sequence; 0: the model's own")
    max_running: int = Field(256, ge=1, description="requests decoded at once")
    window: int = Field(
        0, ge=0, description="samples an engine is sent ahead; 0: max_running and a quarter more"
    )
    kv_tokens: int | None = Field(
        None,
        ge=64,
        description="cache of an engine, in tokens; none: what max_running requests can use and the"
        " plan has room for (65,536 on a CPU)",
    )
    attention: str | None = Field(None, description="SGLang's attention backend; none: its choice")
    deterministic: bool = Field(False, description="seeded, batch-invariant sampling (GPU only)")
    bucket_mb: int = Field(512, ge=1, description="weight sync, MiB per bucket")
    stream: bool = Field(True, description="try a finished attack while others are written")
    timeout: float = Field(120.0, gt=0, description="seconds without a reply before a restart")
    start_timeout: float = Field(600.0, gt=0, description="seconds an engine may take to start")
    restarts: int = Field(
        3, ge=0, description="restarts in a row without a reply before the run ends"
    )
    logprob_tolerance: float | None = Field(
        None,
        gt=0,
        description="99th percentile of the log-prob gap of the first rollout, the mean a fifth of"
        " it; none: 1e-3 in float32, 0.5 in bfloat16",
    )


class DataConfig(Section):
    """Real suites (docs/EVALUATE.md). None named: the sandbox. Each is NAME[:SPLIT]=FOLDER."""

    unsafe: tuple[str, ...] = Field((), description="jailbreak suites to train on")
    harmless: tuple[str, ...] = Field((), description="harmless suites to train on")
    test: tuple[str, ...] = Field((), description="suites to measure on; none: a held-out share")
    holdout: float = Field(0.2, gt=0, lt=1, description="share of cases held out for the test")
    probe: float = Field(0.05, gt=0, lt=1, description="share of harmless prompts ORR watches")
    limit: int = Field(0, ge=0, description="prompts of each suite, drawn by prompt; 0: all")
    skip_broken: bool = Field(
        False, description="leave out the cases whose pictures cannot be shown, and count them"
    )
    text_only: bool = Field(
        False, description="show the suites' words in place of pictures, and draw no attacks"
    )
    contamination: Literal["drop", "error", "ignore"] = "drop"
    contamination_threshold: float = Field(0.8, ge=0.1, le=1, description="shingle Jaccard")
    faithful_min: float = Field(0.5, ge=0, le=1, description="share of goal words an attack keeps")
    wording: str | None = Field(None, description="TOML file with other sentences")
    judge: str = Field(
        "rule", description="guard; rule-knowingly trains by refusals alone; or a registered judge"
    )
    judge_url: str | None = Field(None, description="the guard's address up to /v1")
    judge_model: str | None = Field(None, description="model there, or a folder")
    judge_format: str = Field("qwen3guard", description="the guard: see docs/EVALUATE.md")
    judge_cache: str | None = Field(None, description="file of the endpoint's answers")
    controversial: Literal["unsafe", "safe", "unknown"] = "unsafe"
