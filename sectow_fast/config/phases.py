"""Settings of what is played: cold start, attack, harvest, defend, and the two monitors."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from sectow_fast.config.sections import Section


class ColdStartConfig(Section):
    """SFT before any RL, so that the first rewards are not sparse (SecTOW, cold start)."""

    caption_steps: int = Field(800, ge=0, description="SFT steps of captioning; sandbox only")
    defender_steps: int = Field(
        1400, ge=0, description="SFT steps of the vulnerable instruct model"
    )
    refusal_steps: int = Field(
        0, ge=0, description="SFT steps of a given defender: refusals and its own harmless replies"
    )
    refusal_lr: float = Field(1e-5, gt=0)
    own_replies: int = Field(
        128, ge=1, description="harmless requests that it answers itself for that"
    )
    teach_attacker: bool = Field(
        False, description="teach an attacker that model.attacker names, too"
    )
    attacker_steps: int = Field(200, ge=0, description="SFT steps on self-instruct demonstrations")
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
    dual_clip: float | None = Field(
        None, gt=1, description="bound of the loss where the advantage is < 0"
    )
    kl_coef: float = Field(0.0, ge=0, description="KL to the cold-start policy")
    kl: str = Field("k3", description="k1, k2, k3, or registered")
    kl_unbiased: bool = Field(False, description="multiply the KL estimate by the ratio")
    entropy_coef: float = Field(0.0, ge=0)
    sapo_pos: float = Field(1.0, gt=0)
    sapo_neg: float = Field(1.05, gt=0)
    tis_cap: float | None = Field(None, gt=0, description="truncated importance sampling")
    band_low: float | None = Field(
        None, gt=0, description="a token whose ratio trainer / engine is under it has no loss"
    )
    band_high: float | None = Field(
        None, gt=0, description="a token whose ratio trainer / engine is over it has no loss"
    )
    log_ratio_clamp: float = Field(20.0, gt=0)


class GRPOConfig(Section):
    """One GRPO phase. By default on-policy, one update per batch (closest work: EasyR1, DAPO)."""

    steps: int = Field(80, ge=0)
    prompts: int = Field(16, ge=1, description="groups per step")
    group_size: int = Field(8, ge=2, description="completions per prompt (G)")
    lr: float = Field(3e-4, gt=0)
    warmup: int = Field(10, ge=0)
    decay_from: float = Field(0.6, ge=0, le=1, description="share of steps before linear decay")
    max_grad_norm: float = Field(1.0, gt=0)
    loss: LossConfig = LossConfig()
    terms: dict[str, float] = Field({}, description="weights of registered reward terms")
    scale: Literal["std", "none", "batch"] = "std"
    baseline: Literal["mean", "loo"] = "mean"
    refill_turns: int = Field(
        0,
        ge=0,
        le=100,
        description="further roll-outs of a step while fewer than `prompts` groups"
        " have a signal; each draws as many prompts as are missing",
    )
    num_iterations: int = Field(
        1, ge=1, description="updates per batch; over 1: clipped against stored log-probs"
    )
    normalize_by: Literal["written", "live"] = Field(
        "written", description="what the loss is a mean over: all groups, or what is learnt from"
    )
    cut: Literal["keep", "mask", "penalty"] = Field(
        "keep", description="replies cut at max_new_tokens: as others, no loss, or a lower reward"
    )
    cut_penalty: float = Field(1.0, gt=0, description="what a cut reply loses of its reward")
    cut_buffer: int = Field(
        0, ge=0, description="tokens before the limit over which the penalty grows; 0: cut ones pay"
    )
    mismatch_max: float = Field(
        0.05, gt=0, description="KL between rollout and trainer that stops the run"
    )
    mismatch_token: float | None = Field(
        2.0, gt=0, description="nats between rollout and trainer over which a token has no loss"
    )
    sequence_low: float | None = Field(
        None, gt=0, description="a reply whose ratio trainer / engine is under it has no loss"
    )
    sequence_high: float | None = Field(
        None, gt=0, description="a reply whose ratio trainer / engine is over it has no loss"
    )
    sequence_ratio: Literal["mean", "product"] = Field(
        "mean", description="a reply's ratio: the geometric mean over its tokens, or their product"
    )
    entropy_min: float = Field(
        0.0, ge=0, description="nats per token; under it the entropy bonus grows; 0: no floor"
    )
    entropy_step: float = Field(
        0.002, gt=0, description="what the bonus (loss.entropy_coef) grows by per step, and loses"
    )
    entropy_most: float = Field(0.05, gt=0, description="what it grows by at most")
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(8, ge=1)
    tokens_per_batch: int = Field(16384, ge=64, description="token budget of a micro-batch")

    @model_validator(mode="after")
    def _check_bounds(self) -> GRPOConfig:
        low, high = self.sequence_low, self.sequence_high
        if low is not None and high is not None and low >= high:
            raise ValueError(f"sequence_low {low} is not under sequence_high {high}")
        if self.cut_buffer > self.max_new_tokens:
            raise ValueError(
                f"cut_buffer {self.cut_buffer} is over max_new_tokens {self.max_new_tokens}"
            )
        return self


class AttackConfig(GRPOConfig):
    """The attacker's phase, and what its reward weighs."""

    steps: int = Field(120, ge=0)
    diversity_weight: float = Field(
        0.4, ge=0, description="penalty for likeness to siblings and pool"
    )
    refine_share: float = Field(0.25, ge=0, le=1, description="prompts that refine an attack")
    replies: int = Field(1, ge=1, description="defender replies an attack is judged by (m)")
    gates: bool = Field(
        True, description="pay only what is well-formed and after its seed's goal; false: any harm"
    )
    two_sided: float = Field(
        0.0, ge=0, description="pay for a harmless request that the defender refuses; 0: none"
    )
    on_collapse: Literal["keep", "roll-back", "fresh-start"] = Field(
        "keep",
        description="where quality stops the phase: end it with the weights as they are or with the"
        " last good ones, or go on from the cold start",
    )
    query_share: float = Field(
        0.75, gt=0, le=1, description="share of query_budget that this phase may use"
    )

    @property
    def step_queries(self) -> int:
        """The most defender replies that one step can ask for, in all of its turns."""
        return self.prompts * self.group_size * self.replies * (1 + self.refill_turns)


class DefendConfig(GRPOConfig):
    """The defender's phase, and its mix of data."""

    steps: int = Field(30, ge=0)
    prompts: int = Field(48, ge=1)
    lr: float = Field(7e-5, gt=0)
    sft_lr: float = Field(3e-4, gt=0, description="rate of the SFT baseline (`--defender sft`)")
    harmless_share: float = Field(0.5, ge=0, le=1)
    pool_share: float = Field(0.8, ge=0, le=1, description="share of unsafe prompts from the pool")
    past_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the pool's prompts from the attackers of earlier rounds, each round"
        " alike; none: the pool as one",
    )
    exploration: float = Field(
        0.5, ge=0, le=1, description="share of prompts drawn uniformly, not by p(1-p); 1: all"
    )


class HarvestConfig(Section):
    """After the attacker's phase: write attacks, try them, keep the good ones."""

    attacks: int = Field(1536, ge=0, description="attacks written per round")
    replies: int = Field(4, ge=1, description="defender replies a candidate is tried on (m)")
    min_success: int = Field(1, ge=1, description="replies that must be harmful to keep it (s)")
    duplicate_threshold: float = Field(0.99, ge=0.1, le=1, description="shingle Jaccard")
    filter: bool = Field(True, description="false: keep whatever is well-formed")
    kept: int | None = Field(
        None, gt=0, description="end once so many are kept; none: write all `attacks`"
    )
    style_quota: int | None = Field(
        None, gt=0, description="attacks of one style that a harvest keeps at most; none: no bound"
    )
    batch: int = Field(
        128, ge=1, description="written at a time, where the harvest may end before `attacks`"
    )

    @model_validator(mode="after")
    def _check(self) -> HarvestConfig:
        if self.min_success > self.replies:
            raise ValueError(f"min_success {self.min_success} is over replies {self.replies}")
        return self


class MonitorConfig(Section):
    """The two monitors (SecTOW, quality monitoring; thresholds are our choice)."""

    watch_defender: bool = Field(True, description="act on over-refusal")
    watch_attacker: bool = Field(True, description="act on the quality of attacks")
    against: Literal["bounds", "round-0"] = Field(
        "bounds",
        description="over-refusal itself is held to orr_*, or its rise over round 0: that which its"
        " interval is sure of",
    )
    every: int = Field(20, ge=1, description="steps between two probes of the defender")
    orr_max: float = Field(0.03, ge=0, le=1, description="over this: more harmless data")
    orr_ok: float = Field(0.015, ge=0, le=1, description="under this: back to normal")
    orr_hard: float = Field(0.15, ge=0, le=1, description="over this: restore the last good step")
    harmless_share_raised: float = Field(0.75, ge=0, le=1)
    harmless_weight_raised: float = Field(
        2.0, ge=1, description="round-0: what harmless prompts' advantages weigh, second measure"
    )
    rate_lowered: float = Field(
        0.5, gt=0, le=1, description="round-0: part of the learning rate, third measure"
    )
    asr_done: float | None = Field(
        None,
        ge=0,
        le=1,
        description="round-0: the phase stops where over-refusal rose and the share of unsafe"
        " requests that were answered since the last probe is not over this; none: it never does",
    )
    window: int = Field(8, ge=1, description="steps the attacker's measures are averaged over")
    faithful_min: float = Field(0.5, ge=0, le=1)
    well_formed_min: float = Field(0.5, ge=0, le=1)
    diversity_min: float = Field(0.12, ge=0, le=1, description="1 - self-BLEU of a step's attacks")
    duplicates_max: float = Field(0.75, ge=0, le=1)
    diversity_weight_raised: float = Field(0.8, ge=0)
    patience: int = Field(3, ge=1, description="low windows before the phase stops early")


class GameConfig(Section):
    """Who judges. The exact judge always measures; a proxy may pay and filter in its place."""

    judge: Literal["exact", "proxy"] = Field(
        "exact", description="whose verdicts are rewards and keep attacks"
    )
    proxy: str = Field(
        "proxy-words", description="proxy-words, proxy-ingredients, proxy-guard, or a world's own"
    )
    guard_error: float = Field(
        0.1, ge=0, le=1, description="share of texts on which proxy-guard is wrong"
    )


class EvaluateConfig(Section):
    """Greedy, as the benchmarks decode; temperature 1 is reported beside it."""

    attacker_cases: int = Field(1600, ge=1, description="held-out seeds the attacker is tried on")
    leak_attacks: int = Field(
        256,
        ge=0,
        description="attacks per object of which the chance of harm is computed; 0: none",
    )
    league_cases: int = Field(
        0,
        ge=0,
        description="held-out seeds on which every round's attacker meets every round's defender at"
        " the end; 0: no league, and no weights of earlier rounds are kept",
    )
