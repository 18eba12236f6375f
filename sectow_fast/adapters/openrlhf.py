"""OpenRLHF's `PolicyLoss` by our operator, with the host's signature.

In openrlhf/trainer/ray/ppo_actor.py, import the loss of the actor from here:

    from openrlhf.models import Actor, aggregate_loss
    from sectow_fast.adapters.openrlhf import PolicyLoss

Clips, dual clip, GSPO, both aggregations over the global batch, the importance corrections against
the rollout engine and the five results are OpenRLHF 0.11's. Three things differ: GSPO's ratio is
kept within exp(+-20), a batch without a live token has loss 0 (OpenRLHF: 0 / 0), and the values at
masked tokens never matter. OpenRLHF itself is not imported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sectow_fast.kernels import PolicyLossConfig, policy_loss

Result = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]


class PolicyLoss(torch.nn.Module):
    """The arguments are OpenRLHF's; ValueError names one that OpenRLHF would refuse too."""

    def __init__(
        self,
        clip_eps_low: float = 0.2,
        clip_eps_high: float = 0.2,
        dual_clip: float | None = None,
        token_level_loss: bool = True,
        policy_loss_type: str = "ppo",
        is_correction_level: str = "off",
        is_correction_mode: str = "mask",
        is_correction_gating: str = "ratio",
        is_correction_threshold: Sequence[float] = (0.5, 5.0),
    ) -> None:
        super().__init__()
        for name, found, known in (
            ("policy_loss_type", policy_loss_type, ("ppo", "gspo")),
            ("is_correction_level", is_correction_level, ("off", "token", "seq")),
            ("is_correction_mode", is_correction_mode, ("mask", "clip")),
            ("is_correction_gating", is_correction_gating, ("ratio", "binary_kl", "tv")),
        ):
            if found not in known:
                raise ValueError(f"{name}: found {found!r}, expected one of {', '.join(known)}")
        by_ratio = is_correction_gating == "ratio"
        if is_correction_mode == "clip" and (is_correction_level == "seq" or not by_ratio):
            raise ValueError(
                f"is_correction_mode clip: found level {is_correction_level} and gating"
                f" {is_correction_gating}, expected token and ratio"
            )
        if is_correction_level != "off" and not by_ratio and is_correction_threshold[0] > 0:
            raise ValueError(
                f"is_correction_threshold: found a lower bound of {is_correction_threshold[0]} with"
                f" gating {is_correction_gating}, expected 0: a divergence is bounded from above"
            )
        self.sequences = policy_loss_type == "gspo"
        self.level, self.mode = is_correction_level, is_correction_mode
        self.gating, self.band = is_correction_gating, tuple(is_correction_threshold)
        self.by_token = token_level_loss and not self.sequences
        self.config = PolicyLossConfig(
            clip_low=clip_eps_low,
            clip_high=clip_eps_high,
            dual_clip=dual_clip,
            ratio="sequence" if self.sequences else "token",
            reduction="token-mean" if self.by_token else "seq-mean",
        )

    def forward(
        self,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        action_mask: Tensor | None = None,
        rollout_log_probs: Tensor | None = None,
        dp_size: int = 1,
        batch_num_tokens: float | None = None,
        global_batch_size: float | None = None,
    ) -> Result:
        """(loss, clip share, mean of old - new log-prob, of rollout - old, share filtered) of
        [B, T] tensors; the last two are None where nothing is corrected."""
        mask = torch.ones_like(log_probs) if action_mask is None else action_mask
        mask = mask.bool()
        weighted, gap, filtered = advantages, None, None
        if self.level != "off" and not self.sequences:
            weight, gap, filtered = self._correction(old_log_probs, rollout_log_probs, mask)
            weighted = weighted * weight  # the same as a weight >= 0 on the token's loss
        over_rollout = self.level != "off" and self.sequences
        behind = rollout_log_probs if over_rollout else old_log_probs
        count = batch_num_tokens if self.by_token else global_batch_size
        loss, measured = policy_loss(
            log_probs.flatten(),
            weighted.flatten(),
            old_logp=behind.flatten(),
            mask=mask.flatten(),
            sequence_ids=torch.arange(mask.numel(), device=mask.device) // mask.shape[-1],
            normalizer=None if count is None else count / dp_size,
            config=self.config,
        )
        clipped = measured["clip_low"] + measured["clip_high"]
        if filtered is not None:
            # The operator was given weighted advantages, so it counts no clipped token of weight 0.
            clipped = self._clip_share(log_probs.detach() - old_log_probs, advantages, mask)
        drift = _mean(old_log_probs - log_probs.detach(), mask)
        return loss, clipped, drift, gap, filtered

    def _clip_share(self, log_ratio: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        bound = self.config.log_ratio_clamp
        ratio = log_ratio.clamp(-bound, bound).exp()
        low = (ratio < 1 - self.config.clip_low) & (advantages < 0)
        high = (ratio > 1 + self.config.clip_high) & (advantages > 0)
        return _mean((low | high).float(), mask)

    @torch.no_grad()
    def _correction(
        self, old: Tensor, rollout: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(weight [B, T] or [B, 1] of each token's loss, mean of rollout - old, share filtered)."""
        log_ratio = (old - rollout).where(mask, 0.0)
        by_sequence = self.level == "seq"
        if self.gating == "ratio":
            statistic = (_rows(log_ratio, mask) if by_sequence else log_ratio).exp()
        else:
            p, q = (one.where(mask, 0.0).exp().clamp(1e-6, 1 - 1e-6) for one in (rollout, old))
            if self.gating == "binary_kl":
                statistic = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
            else:
                statistic = (p - q).abs()
            statistic = _rows(statistic, mask) if by_sequence else statistic
        low, high = self.band
        out = (statistic < low) | (statistic > high)
        if self.mode == "clip":
            weight = statistic.clamp(low, high)
        else:
            weight = log_ratio.exp().where(~out, 0.0)
        share = out.float().mean() if by_sequence else _mean(out.float(), mask)
        return weight, _mean(-log_ratio, mask), share


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return values.where(mask, 0.0).sum() / mask.sum().clamp(min=1)


def _rows(values: Tensor, mask: Tensor) -> Tensor:
    """[B, 1]: the mean over each row's live tokens."""
    return (values.where(mask, 0.0).sum(-1) / mask.sum(-1).clamp(min=1))[:, None]
