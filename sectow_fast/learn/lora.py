"""Low-rank adapters by peft on the decoder's linear layers; the rest of the model is frozen."""

from __future__ import annotations

import copy
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


def merged(model: Any) -> Any:
    """`model` itself, or where it has adapters, a copy with them added into its weights. This is
    what is saved and what an engine is given."""
    if not any("lora_" in name for name, _ in model.named_parameters()):
        return model
    from peft.tuners.lora import LoraLayer

    whole = copy.deepcopy(model)
    layers = [(name, m) for name, m in whole.named_modules() if isinstance(m, LoraLayer)]
    for name, layer in layers:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(whole.get_submodule(parent), child, layer.get_base_layer())
    whole.requires_grad_(True)
    return whole
