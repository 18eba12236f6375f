"""Layers with a state (Gated DeltaNet, short convolutions) over rows of many sequences.

Such a layer has read all that stands before a token into a state of fixed size. In a row the state
after a prompt is where each of its completions begins: the recurrent state, and the last inputs of
the short convolution. So a layer runs once over each prompt, and once over its completions as a
batch that begins from copies of that state; gradients of the copies add up in the prompt. It is
the class's own forward that runs, with `Begun` in the place of its cache. So the kernels are those
that transformers takes: fla's and causal-conv1d's on a GPU where they are installed, else torch.
"""

from __future__ import annotations

import inspect
import types
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from sectow_fast.learn.segments import Segments, Span, batches_of

# The names of such layers in a decoder's block, and of their kinds in `layer_types`.
LAYERS = ("linear_attn", "conv")
KINDS = ("linear_attention", "conv")


def masks_for(model: Any, mask: torch.Tensor) -> torch.Tensor | Mapping[str, torch.Tensor]:
    """The `attention_mask` of a packed row, which each kind of layer is given. A decoder that makes
    masks itself has none for layers with a state."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    return dict.fromkeys(kinds, mask) if kinds & set(KINDS) else mask


def use(model: Any) -> None:
    """Let the decoder's layers with a state fork it in packed rows. Any other forward is theirs."""
    for block in model.get_decoder().layers:
        for name in LAYERS:
            if (layer := getattr(block, name, None)) is not None:
                layer.forward = types.MethodType(_forward, layer)


class Begun:
    """What a layer takes for its cache: it begins from a state, or from none, and ends in one.

    tail [n, C, K - 1]: the last inputs of a convolution of kernel size K. state: the recurrent
    state [n, ...], None where the layer has none. Nothing is written in place, so gradients flow.
    """

    record_past = True  # or a single token would be written into the state in place

    def __init__(self, tail: torch.Tensor | None = None, state: torch.Tensor | None = None) -> None:
        self.tail, self.state = tail, state
        self._begun = tail is not None
        self.layers = defaultdict(lambda: self)  # one state, whatever the number of the layer

    @property
    def recurrent_states(self) -> tuple[torch.Tensor | None]:
        return (self.state,)

    def has_previous_state(self, *_: Any, **__: Any) -> bool:
        return self._begun

    def update_conv_state(
        self, inputs: torch.Tensor, *_: Any, conv_kernel_size: int, **__: Any
    ) -> torch.Tensor:
        """inputs [n, C, L] -> what the convolution runs over: the tail, where there is one, and
        the inputs."""
        whole = inputs if self.tail is None else torch.cat([self.tail, inputs], -1)
        least = conv_kernel_size - 1
        self.tail = F.pad(whole, (max(0, least - whole.shape[-1]), 0))[..., -least:]
        return whole

    def update_recurrent_state(self, state: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        self.state = state
        return state

    def of(self, which: torch.Tensor) -> Begun:
        """Copies of the state of each of `which`, to begin from."""
        tail = None if self.tail is None else self.tail[which]
        return Begun(tail, None if self.state is None else self.state[which])


@dataclass(frozen=True, kw_only=True)
class Fork:
    """Prompts of one length, and batches of their completions, as indices into the row.

    prompts [n, P]; of each batch: completions [m, L], padded on the right, and which prompt [m]
    each belongs to. used: which of all these, one after the other, are tokens of the row.
    """

    prompts: torch.Tensor
    batches: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    used: torch.Tensor


def _forks(segments: Segments) -> list[Fork]:
    # Prompts of other lengths do not share a batch: padding would go into the state.
    lengths: dict[int, list[Span]] = {}
    for prompt in segments.prompts:
        lengths.setdefault(prompt.length, []).append(prompt)
    out = []
    for length, prompts in lengths.items():
        places = {id(prompt): i for i, prompt in enumerate(prompts)}
        starts = torch.tensor([prompt.start for prompt in prompts])
        mine = [span for span in segments.completions if id(span.prefix) in places]
        batches, used = [], [torch.ones(len(prompts) * length, dtype=torch.bool)]
        for batch in batches_of(mine):
            own = torch.tensor([span.length for span in batch])[:, None]
            # Of two tokens at least: for one, a layer has a kernel without a gradient.
            columns = torch.arange(max(2, int(own.max())))[None]
            real = columns < own
            first = torch.tensor([span.start for span in batch])[:, None]
            which = torch.tensor([places[id(span.prefix)] for span in batch])
            batches.append((first + torch.where(real, columns, 0), which))
            used.append(real.flatten())
        out.append(
            Fork(
                prompts=starts[:, None] + torch.arange(length)[None],
                batches=tuple(batches),
                used=torch.cat(used),
            )
        )
    return out


def _prepare(segments: Segments, device: torch.device) -> tuple[list[Fork], torch.Tensor]:
    """(forks, for each token of the row its place among their outputs)."""
    name = ("forks", device)
    if name not in segments.prepared:
        made = _forks(segments)
        places = torch.cat([one.used for one in made]).nonzero()[:, 0]
        every = [i.flatten() for one in made for i in (one.prompts, *(b for b, _ in one.batches))]
        order = torch.empty(segments.tokens, dtype=torch.long)
        order[torch.cat(every)[places]] = places
        segments.prepared[name] = [_sent(one, device) for one in made], order.to(device)
    return segments.prepared[name]


def _sent(fork: Fork, device: torch.device) -> Fork:
    def there(one: torch.Tensor) -> torch.Tensor:
        return one.to(device, non_blocking=True)

    batches = tuple((there(index), there(which)) for index, which in fork.batches)
    return Fork(prompts=there(fork.prompts), batches=batches, used=fork.used)


def _forward(
    self: Any,
    hidden_states: torch.Tensor,
    *given: Any,
    attention_mask: torch.Tensor | None = None,
    **named: Any,
) -> torch.Tensor:
    """The layer's forward [1, T, H] -> [1, T, H]; forked where the mask is a packed row's."""
    own = type(self).forward
    segments = getattr(attention_mask, "segments", None)
    if segments is None:
        return own(self, hidden_states, *given, attention_mask=attention_mask, **named)
    known = inspect.signature(own).parameters
    cache = next(name for name in ("cache_params", "past_key_values") if name in known)
    named.pop(cache, None)
    row = hidden_states[0]
    forks, order = _prepare(segments, row.device)
    done = []
    for fork in forks:
        begun = Begun()
        done.append(own(self, row[fork.prompts], **{cache: begun}, **named))
        done += [
            own(self, row[index], **{cache: begun.of(which)}, **named)
            for index, which in fork.batches
        ]
    return torch.cat([one.flatten(0, 1) for one in done])[order][None]
