"""Low-rank adapters by peft on the decoder's linear layers; the rest of the model is frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sectow_fast.types import UserError


def add_adapters(model: Any, *, rank: int, alpha: float) -> None:
    """Adapters of `rank` in every linear layer of the decoder but not in the head, whose gradient
    costs most (our choice). In place: names and classes of the model stay.

    UserError where peft is missing.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError(
            f"learn.lora_rank {rank}: found no package peft, expected it;"
            " pip install 'sectow-fast[lora]'"
        ) from None
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    names = [
        f"{prefix}.{name}"
        for name, module in decoder.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=names)
    inject_adapter_in_model(config, model)


@dataclass(frozen=True, kw_only=True)
class Merged:
    """base + up @ down * scale, which is made when `merged` is called and kept by nobody.

    It stands for a tensor where weights are gathered one at a time, like a sharded one: base
    [O, I], up [O, R] and down [R, I] may be sharded.
    """

    base: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor
    scale: float

    @property
    def shape(self) -> torch.Size:
        return self.base.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    def is_floating_point(self) -> bool:
        return self.base.is_floating_point()

    def numel(self) -> int:
        return self.base.numel()

    def to_local(self) -> torch.Tensor:
        """This rank's share of the base: where the weight lies."""
        return self.base.to_local() if hasattr(self.base, "to_local") else self.base

    def merged(self, whole: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The sum of the parts, each made whole. All ranks must call it."""
        return whole(self.base) + whole(self.up) @ whole(self.down) * self.scale


def merged_state(model: Any, *, keep_vars: bool = False) -> dict[str, Any]:
    """`model.state_dict(keep_vars=...)` under the names that it has without adapters; a weight with
    an adapter is a `Merged`. This is what is saved and what an engine is given."""
    state = model.state_dict(keep_vars=keep_vars)
    if not any("lora_" in name for name in state):
        return state
    out: dict[str, Any] = {}
    for name, value in state.items():
        path, _, end = name.partition(".base_layer.")
        if ".lora_" in name:
            continue
        if not end:
            out[name] = value
            continue
        layer = model.get_submodule(path)
        (adapter,) = layer.active_adapters
        out[f"{path}.{end}"] = value
        if end == "weight":
            out[f"{path}.{end}"] = Merged(
                base=value,
                up=state[f"{path}.lora_B.{adapter}.weight"],
                down=state[f"{path}.lora_A.{adapter}.weight"],
                scale=layer.scaling[adapter],
            )
    return out
