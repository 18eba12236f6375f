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
from sectow_fast.learn import attention, forks
from sectow_fast.learn.lora import add_adapters
from sectow_fast.learn.packing import PackedRow, Piece, rank_rows
from sectow_fast.learn.ranks import ALONE, Ranks
from sectow_fast.learn.sharding import is_sharded, shard, sync_gradients
from sectow_fast.learn.tower import KEPT_BYTES, Tower, tower_parameters
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
    # No row is padded. A pad token that is also the end of a turn must learn as any other, and
    # transformers gives the embedding of a pad token no gradient.
    model.get_input_embeddings().padding_idx = None
    if config.freeze_tower:
        for parameter in tower_parameters(model):
            parameter.requires_grad_(False)
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
        kept_bytes=int(config.picture_gib * 2**30),
    )
    if sharded:
        dtype = getattr(torch, config.dtype)
        shard(policy, dtype=dtype, replicas=config.replicas)
        policy.tower.watch()
    return policy


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """What the policy loss needs beside the row: advantages [N] float32, the count over the whole
    batch that it is divided by, the loss's settings, and ref_logp [N] where there is a KL term.

    old_logp [N]: the policy's log-probs before its first update on the batch; None: the present
    ones. mask [N] bool: False where a token has no loss."""

    advantages: torch.Tensor
    normalizer: float
    config: PolicyLossConfig
    ref_logp: torch.Tensor | None = None
    old_logp: torch.Tensor | None = None
    mask: torch.Tensor | None = None


class Policy(torch.nn.Module):
    """A transformers model with its codec and its family, as training uses it.

    backend: who computes attention (learn/attention.py), set on `model` here. device: where it
    computes; none: where the model is. ranks: the processes that train it together
    (learn/sharding.py); dummy: a prompt with an image, for rows without one on them.
    offload: its sharded weights live in host memory. kept_bytes: host memory for the features of a
    tower that is not trained (learn/tower.py).
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
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        super().__init__()
        self.model, self.codec, self.offload = model, codec, offload
        self.device = device or next(model.parameters()).device
        self.ranks, self.dummy = ranks, dummy
        self.family = family_of(model)
        self.backend = attention.use(model, backend, cuda=self.device.type == "cuda")
        forks.use(model)
        # Ranks must make the same calls, and another rank may not have a picture's features.
        self.tower = Tower(model, kept_bytes=kept_bytes if ranks.world == 1 else 0)
        self._bans: dict[torch.device, torch.Tensor] = {}  # what `banned_bias` made

    def rows(
        self, groups: Sequence[tuple[Prompt, Sequence[Completion]]], budget: int
    ) -> Iterator[tuple[PackedRow, list[Piece]]]:
        """This rank's micro-batches of at most `budget` tokens; see `packing.rank_rows`.

        Sharded gradients are added up over ranks in the backward pass of the last one.
        """
        lengths = [(len(p.ids), *(len(one.ids) for one in row)) for p, row in groups]
        self.ranks.agree("lengths of a step's prompts and completions", lengths)
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
        if self.ranks.world == 1 or any(prompt.images for prompt, _ in groups):
            return
        for parameter in tower_parameters(self.model):
            parameter.grad = None

    def sent(self, tensor: torch.Tensor) -> torch.Tensor:
        """A row's tensor on the device. The copy is asked for without waiting; as the row is in
        pageable memory, the driver may wait all the same (not measured on a GPU yet)."""
        return tensor.to(self.device, non_blocking=True)

    def hidden(self, row: PackedRow) -> torch.Tensor:
        """[N, H]: the states that predict each completion token. An image is computed once per
        group."""
        mask = attention.mask_of(row.segments, self.device)
        states = self.model.model(
            input_ids=self.sent(row.input_ids),
            attention_mask=forks.masks_for(self.model, mask),
            position_ids=self.sent(row.position_ids),
            use_cache=False,
            **self.tower.outputs(row, self.device),
        ).last_hidden_state
        return states[0, self.sent(row.column)]

    def banned_bias(self) -> torch.Tensor:
        """[V] float32: -inf at tokens that rollout never samples, so both have one distribution.
        Made once per device."""
        device = self.device
        if device not in self._bans:
            bias = torch.zeros(self.model.lm_head.weight.shape[0])
            bias[list(self.codec.banned_ids)] = -torch.inf
            self._bans[device] = bias.to(device)
        return self._bans[device]

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
        head = dict(
            bias=self.banned_bias() if ban else None,
            temperature=temperature,
            softcap=self.family.softcap,
        )
        given = self.hidden(row), self.model.lm_head.weight, self.sent(row.labels)
        if terms is None:
            return linear_logprob(*given, **head)
        return linear_policy_loss(
            *given,
            self.sent(terms.advantages),
            old_logp=terms.old_logp,
            ref_logp=terms.ref_logp,
            rollout_logp=self.sent(row.rollout_logp),
            mask=terms.mask,
            sequence_ids=self.sent(row.owner),
            normalizer=terms.normalizer,
            config=terms.config,
            **head,
        )

    @torch.no_grad()
    def own_logprobs(self, prompt: Prompt, done: Sequence[int]) -> torch.Tensor:
        """float32 [C]: log-probs of a completion's ids by the model's own forward, head included,
        with no packing and no layout of ours in the tower. A packed row is held against them."""
        device = self.device
        ids = torch.tensor([[*prompt.ids, *done]], device=device)
        pixels = self.family.model_inputs(self.codec.pixel_inputs([prompt]))
        logits = self.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            use_cache=False,
            logits_to_keep=len(done) + 1,  # which some classes do not know
            **self.family.own_inputs(ids),
            **{name: value.to(device) for name, value in pixels.items()},
        ).logits[0, -len(done) - 1 : -1]
        logp = torch.log_softmax(logits.float() + self.banned_bias(), -1)
        return logp.gather(-1, ids[0, len(prompt.ids) :, None])[:, 0]
