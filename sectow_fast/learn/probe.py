"""What a GPU has room for, by measurement: the longest row is run, and the engines are woken.

It takes the place of the plan's estimate (learn/memory.py) where a card is there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from sectow_fast.config import GRPOConfig
from sectow_fast.engine.protocol import Engine
from sectow_fast.learn.memory import GIB
from sectow_fast.learn.packing import pack
from sectow_fast.learn.policy import Policy
from sectow_fast.learn.ranks import Ranks
from sectow_fast.learn.shapes import PICTURE, ProbeCodec, passes, probe_groups
from sectow_fast.learn.sharding import sync_gradients
from sectow_fast.types import UserError

SPARE = 0.05  # of what the probe's row took: other rows differ a little, and memory breaks up
GAIN = 1.25  # a cache that could be so many times larger is worth another start of the engines


class Gauge(Protocol):
    """The memory of the card that this process trains on, in bytes."""

    def free(self) -> int:
        """What nobody holds, once this process has given back what it only keeps."""
        ...

    def restart(self) -> None:
        """Forget the peak so far."""
        ...

    def taken(self) -> int:
        """The most that this process held at once since `restart`, beyond what it held then."""
        ...


class CardGauge:
    """A CUDA card. What torch's allocator reserves counts, since others cannot have it."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._held = device, 0

    def free(self) -> int:
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self.device)[0]

    def restart(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        self._held = torch.cuda.memory_reserved(self.device)

    def taken(self) -> int:
        return torch.cuda.max_memory_reserved(self.device) - self._held


@dataclass(frozen=True, kw_only=True)
class Found:
    """Bytes of a GPU, as they are with `offload`.

    asleep, awake: free beside both players' weights while all engines sleep, and while they draw.
    tokens: of the longest sequence. row: what the forward and backward of such a row took, with the
    gradients. most: tokens up to which a row was filled; slope: what each token between the two
    takes at most, since a peak is the largest of sums that grow with the row. masters: float32
    weights of both players; gradients, optimizer: of one. These three are on the GPU without
    offload, on the host with it.
    """

    offload: bool
    asleep: int
    awake: int
    tokens: int
    row: int
    most: int
    slope: int
    masters: int
    gradients: int
    optimizer: int

    def tightest(self, ranks: Ranks) -> Found:
        """The same for the rank with the least room."""
        lows = ("asleep", "awake", "most")
        least = {name: int(-ranks.largest(-getattr(self, name))) for name in lows}
        most = {
            name: int(ranks.largest(getattr(self, name)))
            for name in ("row", "slope", "masters", "gradients", "optimizer")
        }
        return dataclasses.replace(self, **least | most)

    def free(self, *, offload: bool) -> tuple[int, int]:
        """(for a row beyond its `row` bytes, beside engines that draw): negative where it does not
        fit."""
        moved = int(self.offload) - int(offload)  # 1: from the host to the card
        own = self.masters * moved + (0 if offload else self.optimizer)
        row = int(self.row * (1 + SPARE)) + self.gradients * moved
        return self.asleep - own - row, self.awake - own


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a configuration asks for. rows: tokens of a micro-batch, at most; offload: the choices,
    the better one first; cache: tokens of each engine's cache as it was started, with the least and
    the most that are of use; cache_bytes: of a token in all engines."""

    rows: int
    offload: tuple[bool, ...]
    cache: int
    cache_least: int
    cache_most: int
    cache_bytes: int


@dataclass(frozen=True, kw_only=True)
class Choice:
    """rows: tokens of a micro-batch, at most. cache: tokens of an engine's cache."""

    offload: bool
    rows: int
    cache: int


def decide(found: Found, wanted: Wanted) -> Choice:
    """The first choice of offload with room for a row of the longest sequence and the least cache.

    Rows are as long as wanted where that fits, and shorter elsewhere: the loss is the same.
    UserError names the setting to change where nothing fits.
    """
    for offload in wanted.offload:
        choice = _choice(found, wanted, offload=offload)
        if choice.rows >= found.tokens and choice.cache >= wanted.cache_least:
            return choice
    row, engines = found.free(offload=offload)
    if row < 0 and True not in wanted.offload and found.free(offload=True)[0] >= 0:
        raise UserError(
            f"learn.offload off: found {-row / GIB:.2f} GiB too little on a GPU for a row of"
            f" {found.tokens:,} tokens, expected room for it; leave learn.offload at auto"
        )
    if row < 0:
        raise UserError(
            f"engine.context_length {found.tokens}: found {-row / GIB:.2f} GiB too little on a GPU"
            " for a row of that length, expected room for it; lower it, or use more GPUs or"
            " learn.lora_rank"
        )
    name = "kv_tokens" if wanted.cache_least == wanted.cache else "context_length"
    raise UserError(
        f"engine.{name}: found room for a cache of {max(choice.cache, 0):,} tokens beside the"
        f" trainer ({-engines / GIB:.2f} GiB too little for {wanted.cache:,}), expected at least"
        f" {wanted.cache_least:,}; lower it, set engine.roles swap, or use more GPUs"
    )


def _choice(found: Found, wanted: Wanted, *, offload: bool) -> Choice:
    row, engines = found.free(offload=offload)
    rows = found.tokens + (row // found.slope if found.slope else wanted.rows)
    rows = 0 if row < 0 else min(rows, max(found.most, found.tokens), wanted.rows)
    cache = wanted.cache + engines // wanted.cache_bytes
    if wanted.cache <= cache < wanted.cache * GAIN:
        cache = wanted.cache
    return Choice(offload=offload, rows=rows, cache=min(cache, wanted.cache_most))


def measure(
    policies: Sequence[Policy],
    engines: Sequence[Engine],
    grpo: GRPOConfig,
    *,
    context: int,
    gauge: Gauge,
) -> Found:
    """What both players of a run take on this card. All ranks must call this.

    grpo: the phase whose rows are the heaviest; context: tokens of the longest sequence. Rows are
    of placeholders. Gradients are dropped, and no weight changes. Engines sleep before and after.
    """
    prompt = max(context - grpo.max_new_tokens, 1)
    asleep = gauge.free()
    rows, mosts, slopes = [], [], []
    for policy in policies:
        least, row = _taken(policy, grpo, prompt=prompt, tokens=context, gauge=gauge)
        most, slope, tokens = context, 0, grpo.tokens_per_batch
        while row is not None and tokens > most:
            count, larger = _taken(policy, grpo, prompt=prompt, tokens=tokens, gauge=gauge)
            if larger is None:
                tokens = (most + tokens) // 2
                continue
            if count > least:
                most, slope = tokens, max(larger - row, 0) // (count - least)
            break
        rows.append(asleep + 1 if row is None else row)  # more than there is
        mosts.append(most)
        slopes.append(slope)
    for engine in engines:
        engine.wake()
    awake = gauge.free()
    for engine in engines:
        engine.sleep()
    trained = [[_local(p) for p in policy.parameters() if p.requires_grad] for policy in policies]
    whole = [sum(p.numel() * 4 for p in q.parameters() if p.requires_grad) for q in policies]
    return Found(
        offload=any(policy.offload for policy in policies),
        asleep=asleep,
        awake=awake,
        tokens=context,
        row=max(rows),
        most=min(mosts),
        slope=max(slopes),
        masters=sum(_local(p).nbytes for policy in policies for p in policy.parameters()),
        gradients=max(whole),
        optimizer=2 * max(sum(p.nbytes for p in one) for one in trained),
    )


def _taken(
    policy: Policy, grpo: GRPOConfig, *, prompt: int, tokens: int, gauge: Gauge
) -> tuple[int, int | None]:
    """(tokens of a row of at most `tokens`, what its forward and backward took); None where the
    only rank has no room for it."""
    codec = ProbeCodec(policy.family, policy.model.config, min(PICTURE, prompt - 1))
    groups = probe_groups(
        codec, policy.family, prompt=prompt, reply=grpo.max_new_tokens, tokens=tokens
    )
    row = pack(groups, codec=codec, family=policy.family)
    policy.train()
    gauge.restart()
    try:
        # Twice: gradients of the first micro-batch are there while the last one is computed.
        passes(policy, sync_gradients(policy, iter([row, row])), grpo)
        return row.tokens, gauge.taken()
    except torch.OutOfMemoryError:
        if policy.ranks.world > 1:  # the others are in the midst of it
            raise
        return row.tokens, None
    finally:
        policy.zero_grad(set_to_none=True)
        policy.tower.forget()


def _local(parameter: torch.nn.Parameter) -> torch.Tensor:
    return getattr(parameter, "_local_tensor", parameter)
