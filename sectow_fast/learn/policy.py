"""The policy as training calls it: a packed row in, log-probs or the loss out, in one forward.

Every use of a weight, also of the head's, is inside `Policy.forward`, so that the wrappers that
gather sharded weights around a forward (FSDP2) see it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sectow_fast.config import LearnConfig
from sectow_fast.families import family_of
from sectow_fast.kernels import PolicyLossConfig, linear_logprob, linear_policy_loss
from sectow_fast.learn import attention
from sectow_fast.learn.lora import add_adapters
from sectow_fast.learn.packing import PackedRow, Piece, rank_rows
from sectow_fast.learn.ranks import ALONE, Ranks
from sectow_fast.learn.sharding import is_sharded, shard, sync_gradients
from sectow_fast.types import Completion, Prompt


def make_policy(
    model: Any,
    codec: Any,
    config: LearnConfig,
    *,
    ranks: Ranks = ALONE,
    dummy: Prompt | None = None,
    apart: bool = False,
    offload: bool = False,
    device: torch.device | None = None,
) -> Policy:
    """The policy of `model` by the run's settings: adapters, checkpointing, backend, shards.

    The model stays as it is only where one rank trains it in float32 and the engine draws from the
    very same weights. `apart` says that the engine has weights of its own. offload: masters and
    optimizer live in host memory. device: where it trains; none: where the model is.
    """
    if config.lora_rank:
        add_adapters(model, rank=config.lora_rank, alpha=config.lora_alpha)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    device = device or next(model.parameters()).device
    sharded = is_sharded(config, world=ranks.world, apart=apart)
    if not sharded:
        model.to(device)
    policy = Policy(
        model,
        codec,
        device=device,
        backend=config.attention,
        ranks=ranks,
        dummy=dummy,
        offload=sharded and offload,
    )
    if sharded:
        dtype = getattr(torch, config.dtype)
        shard(policy, dtype=dtype, replicas=config.replicas)
    return policy


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """What the policy loss needs beside the row: advantages [N] float32, the count over the whole
    batch that it is divided by, the loss's settings, and ref_logp [N] where there is a KL term."""

    advantages: torch.Tensor
    normalizer: float
    config: PolicyLossConfig
    ref_logp: torch.Tensor | None = None


class Policy(torch.nn.Module):
    """A transformers model with its codec and its family, as training uses it.

    backend: who computes attention (learn/attention.py), set on `model` here. device: where it
    computes; none: where the model is. ranks: the processes that train it together
    (learn/sharding.py); dummy: a prompt with an image, for rows without one on them.
    offload: its sharded weights live in host memory.
    """

    def __init__(
        self,
        model: Any,
        codec: Any,
        *,
        backend: str = "auto",
        device: torch.device | None = None,
        ranks: Ranks = ALONE,
        dummy: Prompt | None = None,
        offload: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.codec, self.offload = model, codec, offload
        self.device = device or next(model.parameters()).device
        self.ranks, self.dummy = ranks, dummy
        self.family = family_of(model)
        self.backend = attention.use(model, backend, cuda=self.device.type == "cuda")

    def rows(
        self, groups: Sequence[tuple[Prompt, Sequence[Completion]]], budget: int
    ) -> Iterator[tuple[PackedRow, list[Piece]]]:
        """This rank's micro-batches of at most `budget` tokens; see `packing.rank_rows`.

        Sharded gradients are added up over ranks in the backward pass of the last one.
        """
        rows = rank_rows(
            groups,
            budget,
            codec=self.codec,
            family=self.family,
            rank=self.ranks.rank,
            world=self.ranks.world,
            dummy=self.dummy,
        )
        return sync_gradients(self, rows)

    def forget_dummy(self, groups: Sequence[tuple[Prompt, Sequence[Completion]]]) -> None:
        """Drop the zero gradients that the dummy left in the vision tower, where no prompt of the
        batch has an image. AdamW would move weights for them, which it does not do on one rank."""
        if self.ranks.world == 1 or any(prompt.image is not None for prompt, _ in groups):
            return
        text = [self.model.get_decoder(), self.model.get_output_embeddings()]
        kept = {id(p) for module in text for p in module.parameters()}
        for parameter in self.model.parameters():
            if id(parameter) not in kept:
                parameter.grad = None

    def hidden(self, row: PackedRow) -> torch.Tensor:
        """[N, H]: the states that predict each completion token. An image is computed once per
        group."""
        device = self.device
        states = self.model.model(
            input_ids=row.input_ids.to(device),
            attention_mask=attention.mask_of(row.segments, device),
            position_ids=row.position_ids.to(device),
            use_cache=False,
            **{name: value.to(device) for name, value in row.pixel_inputs.items()},
        ).last_hidden_state
        return states[0, row.column.to(device)]

    def banned_bias(self) -> torch.Tensor:
        """[V] float32: -inf at tokens that rollout never samples, so both have one distribution."""
        weight = self.model.lm_head.weight
        bias = torch.zeros(weight.shape[0], dtype=torch.float32, device=weight.device)
        bias[list(self.codec.banned_ids)] = -torch.inf
        return bias

    def forward(
        self,
        row: PackedRow,
        terms: LossTerms | None = None,
        *,
        temperature: float = 1.0,
        ban: bool = True,
    ) -> tuple[torch.Tensor, Any]:
        """`linear_policy_loss` of the row's completion tokens: (loss, metrics); without terms their
        `linear_logprob`: (logp [N], entropy [N]). ban: leave out what rollout never samples."""
        device = self.device
        head = dict(
            bias=self.banned_bias() if ban else None,
            temperature=temperature,
            softcap=self.family.softcap,
        )
        given = self.hidden(row), self.model.lm_head.weight, row.labels.to(device)
        if terms is None:
            return linear_logprob(*given, **head)
        return linear_policy_loss(
            *given,
            terms.advantages.to(device),
            ref_logp=terms.ref_logp,
            rollout_logp=row.rollout_logp.to(device),
            sequence_ids=row.owner.to(device),
            normalizer=terms.normalizer,
            config=terms.config,
            **head,
        )

    @torch.no_grad()
    def own_logprobs(
        self, prompt: Prompt, done: Sequence[int], temperature: float = 1.0
    ) -> torch.Tensor:
        """float32 [C]: log-probs of a completion's ids by the model's own positions and masks, with
        no packing. A packed row and an engine's log-probs are held against them."""
        model, device = self.model, self.device
        ids = torch.tensor([[*prompt.ids, *done]], device=device)
        pixels = self.codec.pixel_inputs([prompt])
        states = model.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            use_cache=False,
            **self.family.own_inputs(ids),
            **{name: value.to(device) for name, value in pixels.items()},
        ).last_hidden_state[0]
        start = len(prompt.ids) - 1
        return linear_logprob(
            states[start : start + len(done)],
            model.lm_head.weight,
            torch.tensor(done, device=device),
            bias=self.banned_bias(),
            temperature=temperature,
            softcap=self.family.softcap,
        )[0]
