"""A player: a model with the engine that samples from it. Case in, words and verdict out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sectow_fast.engine.protocol import Engine
from sectow_fast.protocols import Codec, World
from sectow_fast.types import Case, Completion, Sampling, Verdict


@dataclass(frozen=True, kw_only=True)
class Player:
    """`engine` samples from `model`, and `codec` turns cases into token ids and back. `policy` is
    the model as training calls it (learn/policy.py); None where the model is never trained."""

    model: Any  # a transformers model
    engine: Engine
    codec: Codec
    policy: Any = None

    def complete(
        self, cases: Sequence[Case], *, n: int, sampling: Sampling, seed: str
    ) -> list[list[Completion]]:
        """n completions of each case."""
        if not cases:
            return []
        return self.engine.generate(self.codec.encode(cases), n=n, sampling=sampling, seed=seed)

    def words(self, completion: Completion) -> str | None:
        """What was written; None where the reply was cut at the length limit."""
        return self.codec.decode(completion.ids) if completion.finish_reason == "stop" else None

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy in host memory of what training changes: all weights by name, or the adapters
        alone where there are any. Sharded weights stay sharded."""
        return {name: one.to("cpu", copy=True) for name, one in self._trained().items()}

    def restore(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Exactly these `weights()` again, in the model and in its engine."""
        for name, value in self._trained().items():
            value.copy_(weights[name])
        self.engine.sync(self.model)

    def _trained(self) -> dict[str, torch.Tensor]:
        state = {name: value.detach() for name, value in self.model.state_dict().items()}
        return {name: value for name, value in state.items() if ".lora_" in name} or state


def judged_replies(
    world: World,
    player: Player,
    cases: Sequence[Case],
    *,
    n: int,
    sampling: Sampling,
    seed: str,
) -> list[list[Verdict]]:
    """Ask `player` each case n times and judge every reply (a cut reply is judged as it stands)."""
    completions = player.complete(cases, n=n, sampling=sampling, seed=seed)
    pairs = [
        (case, player.codec.decode(one.ids))
        for case, row in zip(cases, completions, strict=True)
        for one in row
    ]
    verdicts = iter(world.judge_all(pairs))
    return [[next(verdicts) for _ in row] for row in completions]
