"""A small real engine that does what `SGLangProcess` does, on a thread of this process.

Its model is a table [V, V]: row t is the logits of the token after t. It draws from the weights
that were pushed, in the dtype in which they came, and knows pictures: a prompt's mean pixel is
added to the logits of its first token.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import LlavaConfig

from sectow_fast.config import EngineConfig
from sectow_fast.engine.sglang_engine import SGLangEngine
from sectow_fast.engine.sglang_rows import EngineDied
from sectow_fast.engine.sglang_server import SGLangServer

VOCABULARY, END = 16, 1


class Table(torch.nn.Module):
    """The trainer's side of the model. input_ids [1, L] -> logits [1, L, V]."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        made = torch.Generator().manual_seed(seed)
        self.config = LlavaConfig()  # whose pictures go into the model as they are
        self.table = torch.nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=made))

    def forward(self, input_ids: torch.Tensor, **pixels: torch.Tensor) -> Any:
        logits = self.table[input_ids]
        if pixels:
            # The picture speaks where the prompt's last token is: two tokens are left in a prompt.
            shift = torch.zeros_like(logits)
            shift[:, 1] = pixels["pixel_values"].float().mean()
            logits = logits + shift * torch.arange(VOCABULARY)
        return SimpleNamespace(logits=logits)


def made_engine(
    model: torch.nn.Module,
    codec: Any,
    *,
    lives: Iterable[Mapping[str, int]] = (),
    gaps: Any = None,
    **settings: Any,
) -> SGLangEngine:
    """An engine on tiny processes. lives: more arguments of the first ones."""
    more = iter(lives)
    server = SGLangServer(
        config=EngineConfig(kind="sglang", **settings),
        arguments={"device": "cpu", "max_total_tokens": 1000},
        environment={},
        log=Path("tiny.log"),
        process=lambda **given: TinyProcess(**given, **next(more, {})),
    )
    return SGLangEngine(
        server,
        model,
        codec,
        name="defender",
        shapes={"table": (VOCABULARY, VOCABULARY)},
        weights_of=lambda model: {"table": model.table.detach()},
        gaps=gaps,
    )


class TinyCodec:
    """Counts the pixel tensors that are alive; each is made anew when it is asked for."""

    end_ids, pad_id, banned_ids, image_id = (END,), 0, (0,), -1

    def __init__(self, size: int = 4) -> None:
        self.size, self.alive, self.most, self.made = size, 0, 0, 0
        self.ahead, self._begun = 0, set()
        self._lock = threading.RLock()

    def prefetch(self, prompts: Sequence[Any]) -> None:
        """Nothing is made, which would count as alive; what is begun and not fetched is noted."""
        self._begun |= {key for prompt in prompts for key in prompt.images}
        self.ahead = max(self.ahead, len(self._begun))

    def pixel_inputs(self, prompts: Sequence[Any]) -> dict[str, torch.Tensor]:
        (prompt,) = prompts
        if not prompt.images:
            return {}
        (key,) = prompt.images
        self._begun.discard(key)
        value = torch.full((1, self.size), float(key), dtype=torch.bfloat16)
        array = value.view(torch.int16).numpy().copy()  # what can be watched until it is freed
        with self._lock:
            self.alive, self.made = self.alive + 1, self.made + 1
            self.most = max(self.most, self.alive)
        weakref.finalize(array, self._gone)
        return {"pixel_values": torch.from_numpy(array).view(torch.bfloat16)}

    def _gone(self) -> None:
        with self._lock:
            self.alive -= 1


class TinyProcess:
    """One life. die_at: it ends by itself, as by kill -9, before it draws its request of that
    number. Where the cache has no room it is made smaller, as SGLang does: `cache`."""

    def __init__(
        self,
        *,
        arguments: Any,
        on_rows: Callable[[Sequence[Any]], None],
        die_at: int = -1,
        cache: int = 10**9,
        **unused: Any,
    ) -> None:
        self.asked, self._die_at = 0, die_at
        self._on_rows, self.heard, self.alive = on_rows, time.monotonic(), True
        self.info = {"cache_tokens": min(cache, arguments["max_total_tokens"])}
        self.weights: dict[str, torch.Tensor] = {}
        self.dtypes: set[str] = set()
        self.label: str | None = None
        self.calls: list[str] = []
        self._inbox: queue.SimpleQueue = queue.SimpleQueue()
        self._stopped: set[str] = set()
        threading.Thread(target=self._work, daemon=True).start()

    def kill(self) -> None:
        self.alive = False
        self._inbox.put(None)

    close = kill

    def send(self, kind: str, *rest: Any) -> None:
        if not self.alive:
            raise EngineDied("the process is gone")
        if kind == "generate":
            self._inbox.put(rest[0])
        elif kind == "abort":
            self._stopped |= set(rest[0])

    def call(self, name: str, *rest: Any, timeout: float) -> None:
        if not self.alive:
            raise EngineDied("the process is gone")
        self.calls.append(name)
        if name == "weights":
            pieces, data, self.label, _ = rest
            for piece in pieces:
                dtype = getattr(torch, piece.dtype)
                self.dtypes.add(piece.dtype)
                bytes_ = data[piece.start : piece.end].clone()
                self.weights[piece.name] = bytes_.view(dtype).view(piece.shape)

    def _work(self) -> None:
        while (message := self._inbox.get()) is not None:
            for ids, pixels, samples in message:
                rows = []
                for rid, sampling in samples:
                    self.asked += 1
                    if self.asked == self._die_at:
                        self.alive = False
                        return
                    if rid not in self._stopped:
                        rows.append((rid, *self._drawn(ids, pixels, sampling), self.label))
                with contextlib.suppress(EngineDied):
                    self._on_rows(rows)

    def _drawn(
        self, ids: list[int], pixels: dict[str, Any], sampling: dict[str, Any]
    ) -> tuple[list[int], list[float], str]:
        table = self.weights["table"].float()
        rng = torch.Generator().manual_seed(sampling["sampling_seed"] % 2**31)
        shift = torch.zeros(VOCABULARY)
        for dtype, shape, data in pixels.values():
            values = torch.from_numpy(data).view(getattr(torch, dtype)).view(shape)
            shift = values.float().mean() * torch.arange(VOCABULARY)
        last, out, logps = ids[-1], [], []
        while len(out) < sampling["max_new_tokens"]:
            logits = table[last] + shift
            logits[0] = -torch.inf
            logp = torch.log_softmax(logits / sampling["temperature"], -1)
            last = int(torch.multinomial(logp.exp(), 1, generator=rng))
            out.append(last)
            logps.append(float(logp[last]))
            shift = torch.zeros(VOCABULARY)
            if last == END:
                return out, logps, "stop"
        return out, logps, "length"
