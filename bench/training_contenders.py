"""One update with each common layout of completions: the same groups, loss and optimizer.

Each is `grpo_step` with a `Policy` of its own, so that only the rows differ. `count` predicts how
many tokens each sends through which part of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scene import Scene

from sectow_fast.learn.grpo import grpo_step
from sectow_fast.learn.optim import make_optimizer
from sectow_fast.learn.packing import PackedRow, Piece
from sectow_fast.learn.policy import Policy
from sectow_fast.learn.segments import Segments
from sectow_fast.types import Completion, Prompt

Groups = Sequence[tuple[Prompt, Sequence[Completion]]]


class Unshared(Policy):
    """Rows without padding in which every completion brings its own prompt."""

    def rows(self, groups: Groups, budget: int) -> Iterator[tuple[PackedRow, list[Piece]]]:
        alone = [(prompt, [one]) for prompt, done in groups for one in done]
        where = [(i, j) for i, (_, done) in enumerate(groups) for j in range(len(done))]
        for row, pieces in super().rows(alone, budget):
            known = [where[piece.group] for piece in pieces]
            yield row, [Piece(group=i, picked=(j,)) for i, j in known]


@dataclass(frozen=True, kw_only=True)
class PaddedRow(PackedRow):
    """input_ids [B, L], padded on the right; mask [B, L]; `column` counts places in B x L."""

    mask: torch.Tensor


class Padded(Policy):
    """A batch of whole sequences, padded on the right, through transformers' own sdpa forward."""

    def __init__(self, model: Any, codec: Any, **options: Any) -> None:
        super().__init__(model, codec, **options)
        model.set_attn_implementation("sdpa")

    def rows(self, groups: Groups, budget: int) -> Iterator[tuple[PackedRow, list[Piece]]]:
        alone = [
            (Piece(group=i, picked=(j,)), prompt, one)
            for i, (prompt, done) in enumerate(groups)
            for j, one in enumerate(done)
        ]
        longest = max(len(prompt.ids) + len(one.ids) for _, prompt, one in alone)
        size = max(1, budget // longest)
        for at in range(0, len(alone), size):
            pieces, prompts, done = zip(*alone[at : at + size], strict=True)
            yield self._padded(prompts, done), list(pieces)

    def _padded(self, prompts: Sequence[Prompt], done: Sequence[Completion]) -> PaddedRow:
        whole = [
            torch.tensor([*prompt.ids, *one.ids]) for prompt, one in zip(prompts, done, strict=True)
        ]
        ids = torch.nn.utils.rnn.pad_sequence(whole, True, self.codec.pad_id)
        lengths = torch.tensor([len(one) for one in whole])
        own = torch.tensor([len(one.ids) for one in done])
        place = torch.arange(ids.shape[1])[None]
        predicts = (place >= (lengths - own - 1)[:, None]) & (place < lengths[:, None] - 1)
        return PaddedRow(
            input_ids=ids,
            position_ids=place.expand_as(ids),
            segments=Segments([], ids.numel()),
            pixel_inputs=self.codec.pixel_inputs(prompts),
            column=predicts.flatten().nonzero()[:, 0],
            labels=torch.tensor([i for one in done for i in one.ids]),
            rollout_logp=torch.tensor([x for one in done for x in one.logprobs]),
            owner=torch.repeat_interleave(torch.arange(len(done)), own),
            mask=(place < lengths[:, None]).long(),
        )

    def hidden(self, row: PaddedRow) -> torch.Tensor:
        device = self.device
        states = self.model.model(
            input_ids=row.input_ids.to(device),
            attention_mask=row.mask.to(device),
            use_cache=False,
            **self.family.own_inputs(row.input_ids.to(device)),
            **{name: value.to(device) for name, value in row.pixel_inputs.items()},
        ).last_hidden_state
        return states.flatten(0, 1)[row.column.to(device)]


POLICIES: dict[str, type[Policy]] = {"shared": Policy, "unshared": Unshared, "padded": Padded}


class Update:
    """Calling it makes one update of `scene`'s groups. The learning rate is 0. `gradients` are
    those of the latest call with keep=True, as the optimizer saw them."""

    def __init__(self, scene: Scene, name: str, *, backend: str = "auto") -> None:
        self.scene, self.model = scene, scene.model()
        codec = scene.codec(scene.pictures())
        self.groups = scene.groups(codec.encode(scene.cases))
        self.policy = POLICIES[name](self.model, codec, backend=backend)
        self.optimizer = make_optimizer(self.model, 0.0, betas=(0.9, 0.95), weight_decay=0.0)
        self.gradients: dict[str, torch.Tensor] = {}

    def __call__(self, *, keep: bool = False) -> None:
        hook = self.optimizer.register_step_pre_hook(self._keep) if keep else None
        try:
            grpo_step(self.policy, self.optimizer, self.groups, config=self.scene.config)
        finally:
            if hook is not None:
                hook.remove()

    def _keep(self, *_: Any) -> None:
        named = self.model.named_parameters()
        self.gradients = {n: p.grad.clone() for n, p in named if p.grad is not None}


@dataclass(frozen=True, kw_only=True)
class Count:
    """Tokens of a group through each part of the model, padding included. The predicted
    ratio is that of `decoder`; `work` weighs every part's tokens by the size of its matrices."""

    decoder: int
    tower: int
    work: float


def count(scene: Scene, *, shared: bool) -> Count:
    """What a group costs with its prompt once, or with it once per completion."""
    prompts = 1 if shared else scene.group_size
    answers = scene.group_size * scene.completion
    decoder = prompts * scene.prompt + answers
    tower = prompts * (scene.side**2 + 1) if scene.side else 0
    model = scene.model()
    head = model.lm_head.weight.numel()
    return Count(
        decoder=decoder,
        tower=tower,
        work=decoder * _matrices(model, "layers", "language_model" if tower else "model")
        + (tower * _matrices(model, "", "vision_tower", "multi_modal_projector") if tower else 0)
        + answers * head,
    )


def _matrices(model: Any, under: str, *parts: str) -> int:
    """Elements of the weight matrices of linear layers in the model's parts of these names."""
    return sum(
        one.weight.numel()
        for name, one in model.named_modules()
        if isinstance(one, torch.nn.Linear)
        and under in [*name.split("."), ""]
        and set(parts) & set(name.split("."))
    )


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], what: str) -> None:
    """AssertionError where two updates differ: their times could not be compared."""
    if found.keys() != wanted.keys():
        raise AssertionError(f"{what}: gradients of {sorted(found.keys() ^ wanted.keys())} differ")
    for name, one in wanted.items():
        torch.testing.assert_close(found[name], one, rtol=1e-3, atol=2e-6, msg=f"{what}: {name}")
