"""Attention over rows of many sequences, by the backend that one flag names.

`use(model, name)` sets it on the text decoder; the vision tower keeps its own. From then on a
forward whose mask comes from `mask_of(segments)` is computed by the backend, and any other forward
(rollout, evaluation) by transformers' sdpa. `auto` means flex on CUDA and sdpa on a CPU; both come
with torch. flash and xformers are used only when they are named. A backend that is missing is an
error; no other one takes its place silently.

| name     | how                                              | windows | image blocks | runs on  |
|----------|--------------------------------------------------|---------|--------------|----------|
| sdpa     | joined sequences in a padded batch, dense masks  | exact   | exact        | CPU, GPU |
| flex     | FlexAttention, block mask over the row           | exact   | exact        | GPU      |
| flash    | flash-attn's varlen over joined sequences        | exact   | refused      | GPU      |
| xformers | block-diagonal bias over joined sequences        | refused | refused      | GPU      |
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from sectow_fast.learn.segments import Segments
from sectow_fast.types import UserError

BACKENDS = ("sdpa", "flex", "flash", "xformers")
PACKAGES = {"flash": "flash_attn", "xformers": "xformers"}
PREFIX = "sectow-"


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
    register(name, load(name, cuda=cuda))
    set_on_text(model, PREFIX + name)
    return name


def set_on_text(model: Any, implementation: str) -> None:
    """transformers' `set_attn_implementation`, for the text decoder alone."""
    text = model.config.get_text_config()
    if text is model.config:
        model.set_attn_implementation(implementation)
    else:
        inner = [k for k in model.config.sub_configs if getattr(model.config, k, None) is text]
        model.set_attn_implementation({inner[0]: implementation})


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


def register(name: str, backend: Backend) -> None:
    """Make a backend known to transformers under `PREFIX + name`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def forward(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        segments = getattr(attention_mask, "segments", None)
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

    AttentionInterface.register(PREFIX + name, forward)
    AttentionMaskInterface.register(PREFIX + name, sdpa_mask)
