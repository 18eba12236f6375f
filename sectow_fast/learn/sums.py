"""What a step measures: summed row by row on the device, then over ranks, and read once."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from sectow_fast.config import GRPOConfig
from sectow_fast.learn.packing import IGNORE, PackedRow
from sectow_fast.learn.ranks import Ranks
from sectow_fast.learn.stored import Stored
from sectow_fast.types import UserError

# Which tokens each of the loss's metrics is a mean over.
MEANS = {"entropy": "scored", "kl": "scored", "clip_low": "live", "clip_high": "live"}
SUMS = ("loss", "tokens_trained", "scored", "live", *MEANS)
# Of the comparison with the engine, whose log-probs a row has although nothing in it is learnt.
COMPARED = ("compared", "mismatch_kl", "masked_mismatch", "masked_band", "replies_left_out")


class StepSums:
    """A step's metrics, summed row by row and then over ranks.

    The sums stay on the device until `result` reads them once, so that no row waits for the card.
    band: the bounds of the loss's own log-ratio trainer / engine. config says what is over a bound:
    `mismatch_max` is that of KL(rollout || trainer) per token, over which the run stops. A token
    beyond `mismatch_token` counts there as one at that bound, so that a single one does not stop a
    run, and many do.
    """

    def __init__(
        self, *, config: GRPOConfig, band: tuple[float, float], device: torch.device
    ) -> None:
        self.config, self.band = config, band
        names = len(SUMS) + len(COMPARED)
        self.sums = torch.zeros(names, dtype=torch.float64, device=device)
        self.largest = torch.zeros((), dtype=torch.float64, device=device)

    def add(
        self,
        row: PackedRow,
        loss: torch.Tensor,
        measured: Mapping[str, torch.Tensor],
        stored: Stored | None = None,
    ) -> None:
        """One row's loss and what `linear_policy_loss` measured on it. stored: log-probs before the
        first update, which the engine's are then compared with."""
        # Tokens of advantage 0 teach nothing and may not have gone through the head.
        scored = measured["scored"]
        counts = {"scored": scored.sum(), "live": measured["live"].double()}
        rollout = row.rollout_logp.to(scored.device, non_blocking=True)
        trainer, seen = measured["logp"], scored
        if stored is not None:
            labels = row.labels.to(scored.device, non_blocking=True)
            trainer, seen = stored.logp, labels != IGNORE
        gap = (rollout - trainer).double().where(seen, 0.0)
        values = {
            "loss": loss,
            "tokens_trained": torch.full_like(loss, row.tokens),
            **{name: measured[name].double() * counts[over] for name, over in MEANS.items()},
            **counts,
        }
        # A row of which nothing was scored does not count.
        mine = torch.stack([values[name].double() for name in SUMS])
        compared = self._compared(gap, seen, stored)
        self.sums += torch.cat([mine.where(counts["scored"] > 0, 0.0), compared])
        # NaN is left out, as `result` says.
        self.largest = torch.fmax(self.largest, gap.abs().amax())

    def _compared(
        self, gap: torch.Tensor, seen: torch.Tensor, stored: Stored | None
    ) -> torch.Tensor:
        """COMPARED of a row. gap [N] float64: the engine's log-prob less the trainer's."""
        most = self.config.mismatch_token
        zero = torch.zeros((), dtype=torch.float64, device=gap.device)
        over, bounded = zero, gap
        if most is not None:
            over, bounded = (gap.abs() > most).sum(), gap.clamp(-most, most)
        low, high = self.band
        outside = (-gap < low) | (-gap > high)
        values = {
            "compared": seen.sum(),
            # The k3 estimate of KL(rollout || trainer).
            "mismatch_kl": (torch.exp(-bounded) - 1 + bounded).sum(),
            "masked_mismatch": over,
            "masked_band": (outside & seen).sum(),
            "replies_left_out": zero if stored is None else stored.left_out,
        }
        return torch.stack([values[name].double() for name in COMPARED])

    def result(self, ranks: Ranks) -> dict[str, float]:
        """The step's numbers, the same on every rank. UserError over the mismatch's bound."""
        *read, mine = torch.cat([self.sums, self.largest[None]]).tolist()
        sums = ranks.summed(dict(zip((*SUMS, *COMPARED), read, strict=True)))
        out = {name: sums[name] for name in ("loss", "tokens_trained")}
        out |= {name: sums[name] / max(sums[over], 1.0) for name, over in MEANS.items()}
        if not sums["scored"]:
            out["entropy"] = math.nan  # of nothing: not the entropy of a policy that is certain
        shares = ("mismatch_kl", "masked_mismatch", "masked_band")
        out |= {name: sums[name] / max(sums["compared"], 1.0) for name in shares}
        mismatch = out["mismatch_kl"]
        largest = ranks.largest(mine)
        # NaN log-probs are left to the skip of non-finite steps, which counts them.
        if mismatch > self.config.mismatch_max:
            raise UserError(
                f"rollout and trainer log-probs: found a mismatch of {mismatch:.3g} (KL per token,"
                f" largest difference {largest:.3g}, {out['masked_mismatch']:.1%} of the tokens"
                f" masked), expected <= {self.config.mismatch_max:g}; look at the engine's"
                " weights (was the last sync complete?), its precision, its temperature and its"
                " image features"
            )
        left_out = sums["replies_left_out"]
        return out | {"mismatch_max": largest, "replies_left_out": left_out}
