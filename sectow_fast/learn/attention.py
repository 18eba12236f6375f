"""Attention over rows of many sequences, by the backend that one flag names.

`use(model, name)` sets it on text decoder and vision tower. From then on a decoder whose mask comes
from `mask_of(segments)`, and a tower of packed pictures whose ends come from `ends_of(segments)`
(learn/tower.py), are computed by the backend. Any other forward (rollout, evaluation, a tower that
takes pictures of one size as a batch) is computed by transformers' sdpa. `auto` means flex on CUDA
and sdpa on a CPU; both come with torch. flash and xformers are used only when they are named. A
backend that is missing is an error; no other one takes its place silently. docs/TRAINING.md has a
table of what each can do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from sectow_fast.learn.segments import Segments
from sectow_fast.types import UserError

BACKENDS = ("sdpa", "flex", "flash", "xformers")
PACKAGES = {"flash": "flash_attn", "xformers": "xformers"}
PREFIX = "sectow-"
# transformers hands the whole row of a tower of packed pictures over, with its ends, only where the
# name says flash. Another tower leaves out the mask of its pictures for such a name (Pixtral).
TOWER = "sectow-flash-tower-"
# It also tries to load a kernel of that name for a model that is a decoder alone.
SAFE = {"flash": "varlen"}


class Backend(Protocol):
    """query [T, H, D], key and value [T, H_kv, D] of a row -> [T, H, D]."""

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        segments: Segments,
        *,
        scale: float | None,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor: ...


def use(model: Any, name: str = "auto", *, cuda: bool | None = None) -> str:
    """Set the backend of `model`'s decoder and return its name. UserError where it can't run.

    cuda: whether it will compute on a GPU; none: whether the model is there now.
    """
    cuda = next(model.parameters()).is_cuda if cuda is None else cuda
    name = chosen(name, cuda=cuda)
    install(model, name, load(name, cuda=cuda))
    return name


def install(model: Any, name: str, backend: Backend) -> None:
    """Let `backend` compute the attention of `model`'s decoder and tower, under this name."""
    text, tower = PREFIX + SAFE.get(name, name), TOWER + name
    _register((text, tower), backend)
    vision = getattr(model.config, "vision_config", None)
    packed = hasattr(vision, "spatial_merge_size")
    names = {"vision_config": tower if packed else text}
    put(model, dict.fromkeys(implementations(model), text) | names)


def implementations(model: Any) -> dict[str, str]:
    """What computes attention now, by part: "" for a decoder alone, else the names of the
    configurations of text decoder and vision tower."""
    config = model.config
    text = config.get_text_config()
    if text is config:
        return {"": config._attn_implementation}
    parts = {k: getattr(config, k, None) for k in config.sub_configs}
    return {
        k: part._attn_implementation
        for k, part in parts.items()
        if part is text or k == "vision_config"
    }


def put(model: Any, names: Mapping[str, str]) -> None:
    """Set what computes attention, by part as `implementations` has it; other names are left."""
    mine = {part: names[part] for part in implementations(model)}
    model.set_attn_implementation(mine.get("") or mine)


def chosen(name: str, *, cuda: bool) -> str:
    """What `auto` means on this device; any other name is itself."""
    return ("flex" if cuda else "sdpa") if name == "auto" else name


def load(name: str, *, cuda: bool) -> Backend:
    """The backend of a name. UserError names the package that is missing."""
    if name == "sdpa":
        from sectow_fast.learn.attention_sdpa import attend

        return attend
    if name not in BACKENDS:
        raise UserError(f"learn.attention: found {name!r}, expected auto, {', '.join(BACKENDS)}")
    package = PACKAGES.get(name, "torch")
    try:
        __import__(package)
    except ImportError:
        raise UserError(
            f"learn.attention {name}: found no package {package}, expected it;"
            f" pip install {package.replace('_', '-')}, or take another of {', '.join(BACKENDS)}"
        ) from None
    if not cuda:
        raise UserError(
            f"learn.attention {name}: found a CPU, expected a CUDA device (on a CPU it has no"
            " backward pass); on a CPU take sdpa"
        )
    if name == "flex":
        from sectow_fast.learn.attention_flex import attend

        return attend
    from sectow_fast.learn import attention_varlen

    return attention_varlen.flash if name == "flash" else attention_varlen.xformers


def mask_of(segments: Segments, device: torch.device) -> torch.Tensor:
    """The `attention_mask` of a packed row: 4-D, since models pass a 4-D mask on unchanged."""
    mask = torch.empty(1, 1, 0, segments.tokens, device=device, dtype=torch.bool)
    mask.segments = segments
    return mask


def ends_of(segments: Segments, device: torch.device) -> torch.Tensor:
    """The `cu_seqlens` of a tower's packed pictures: [spans + 1] int32 from 0, made on the host."""
    ends = torch.tensor([0, *(span.start + span.length for span in segments.spans)])
    ends = ends.to(device=device, dtype=torch.int32, non_blocking=True)
    ends.segments = segments
    return ends


def _register(names: Sequence[str], backend: Backend) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def forward(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        ends = kwargs.pop("cu_seq_lens_q", None)
        segments = getattr(attention_mask if ends is None else ends, "segments", None)
        if segments is None and ends is not None:
            return _one_by_one(module, (query, key, value), ends, scaling), None
        if segments is None:
            return sdpa_attention_forward(
                module,
                query,
                key,
                value,
                attention_mask,
                dropout=dropout,
                scaling=scaling,
                **kwargs,
            )
        if dropout:
            raise UserError(f"attention dropout: found {dropout}, expected 0; set it to 0")
        rows = (one[0].transpose(0, 1) for one in (query, key, value))
        out = backend(
            *rows,
            segments,
            scale=scaling,
            window=kwargs.get("sliding_window"),
            softcap=kwargs.get("softcap"),
        )
        return out[None], None

    for name in names:
        AttentionInterface.register(name, forward)
        AttentionMaskInterface.register(name, sdpa_mask)


def _one_by_one(
    module: Any, states: Sequence[torch.Tensor], ends: torch.Tensor, scale: float | None
) -> torch.Tensor:
    """A packed tower as transformers computes it: one call per picture or window. The start-up
    self-test compares with it."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    sizes = ends.diff().tolist()
    parts = zip(*(one.split(sizes, 2) for one in states), strict=True)
    done = [
        sdpa_attention_forward(module, *part, None, scaling=scale, is_causal=False)[0]
        for part in parts
    ]
    return torch.cat(done, 1)
