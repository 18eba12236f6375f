"""Rollout by SGLang: ids and processor output in, ids with log-probs out. See docs/ENGINE.md."""

from __future__ import annotations

import functools
import queue
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from sectow_fast.engine.protocol import Engine, EngineCodec
from sectow_fast.engine.reference import TOLERANCE, Gaps, check_gaps, plain_gaps
from sectow_fast.engine.sglang_batch import Batch
from sectow_fast.engine.sglang_rows import Request, Wanted
from sectow_fast.engine.sglang_server import SGLangServer
from sectow_fast.engine.sglang_settings import weights_device
from sectow_fast.engine.streams import whole
from sectow_fast.engine.torch_engine import row_seeds
from sectow_fast.engine.weight_sync import (
    Bucket,
    Weights,
    buckets,
    checkpoint_weights,
    covered,
    in_host_memory,
    needs_peers,
)
from sectow_fast.families import reply_ends
from sectow_fast.types import Completion, Prompt, Sampling, UserError

AHEAD = 16  # prompts whose pictures are processed while the ones before are sent
BANNED = -1e9  # added to a banned token's logit: probability 0, and finite on its way through JSON


class SGLangEngine:
    """One model's engine. Several may share a server: it then holds one model's weights at a time.

    name: tells the sharers apart. shapes: name -> shape in the checkpoint of the configuration the
    server was started from; every push must cover them. neighbours: every server on the device,
    which sleep together; none: this one. gaps: how log-probs are compared with the trainer's; none:
    by a plain forward of `model`, which must be whole then.

    Where the weights are sharded over ranks, all ranks gather them together when the first of them
    is about to draw, and each keeps a copy in host memory in the engine's dtype: an engine that is
    restarted takes that, since the other ranks would not come a second time.
    """

    def __init__(
        self,
        server: SGLangServer,
        model: Any,
        codec: EngineCodec,
        *,
        name: str,
        shapes: Mapping[str, tuple[int, ...]],
        neighbours: Mapping[str, SGLangServer] | None = None,
        weights_of: Weights = checkpoint_weights,
        gaps: Gaps | None = None,
    ) -> None:
        self.server, self.model, self.codec = server, model, codec
        self.name, self.shapes, self._weights_of = name, shapes, weights_of
        self._ends = reply_ends(codec.end_ids, model)
        self._neighbours = neighbours if neighbours is not None else {name: server}
        self._gaps = gaps or plain_gaps(model, codec)
        # Asked once: during a forward of FSDP2 its parameters are whole for a while.
        self._peers = needs_peers(model)
        self.weight_version = 0
        self._synced = _written(model)
        self._kept: tuple[int, list[Bucket]] = (-1, [])  # version, and its weights on the host
        # After which start of the server these rows came, which wait for all ranks to compare them.
        self._unproven: tuple[int, list[tuple[Prompt, Completion]]] = (0, [])

    # ---- tokens

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        seed: str,
        numbers: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """Completions [prompts][n], in order; see `Engine`.

        A request that a dying engine took along is sent again, so the answer is always whole.
        """
        stream = self.submit(prompts, n=n, sampling=sampling, seed=seed, numbers=numbers)
        return whole(stream, prompts=len(prompts), n=n)

    def submit(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        seed: str,
        numbers: Sequence[int] | None = None,
    ) -> Batch:
        """Like `generate`, but at once: take the completions as they finish.

        Prompts are sent as the server has room, and their pixels are fetched then.
        """
        wanted = self._ready()
        seeds = row_seeds(seed, range(len(prompts)) if numbers is None else numbers, n)
        rows: queue.SimpleQueue = queue.SimpleQueue()
        shared = self._sampling(sampling)

        def pixels_of(i: int) -> Mapping[str, torch.Tensor]:
            self.codec.prefetch(prompts[i : i + AHEAD])
            return self.codec.pixel_inputs([prompts[i]])

        def requests(i: int) -> list[Request]:
            # One object for all samples of a prompt, by which they are known to travel together.
            pixels = functools.partial(pixels_of, i)
            return [
                Request(
                    rid=self.server.next_rid(),
                    key=(i, j),
                    ids=prompts[i].ids,
                    pixels=pixels,
                    # SGLang takes a signed number; it heeds it in deterministic mode.
                    sampling=shared | {"sampling_seed": int(seeds[i, j] >> 1)},
                    rows=rows,
                )
                for j in range(n)
            ]

        def prove(first: Sequence[tuple[int, Completion]]) -> None:
            found = [(prompts[i], one) for i, one in first]
            if not self._peers:
                self.prove(found, sampling)
            elif self._unproven[0] != self.server.starts:
                self._unproven = (self.server.starts, found)

        return Batch(
            self.server,
            requests,
            prompts=len(prompts),
            n=n,
            rows=rows,
            wanted=wanted,
            sampling=sampling,
            end_ids=self._ends,
            prove=prove,
        )

    def _sampling(self, sampling: Sampling) -> dict[str, Any]:
        if self.server.config.deterministic and sampling.min_p:
            raise UserError(
                f"min_p: found {sampling.min_p}, expected 0 with engine.deterministic:"
                " SGLang samples wrongly by min_p and seed together"
            )
        return {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k or -1,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "max_new_tokens": sampling.max_new_tokens,
            "stop_token_ids": list(self._ends),
            "logit_bias": {str(i): BANNED for i in self.codec.banned_ids},
            "skip_special_tokens": False,
        }

    def runs_beside(self, other: Engine) -> bool:
        """Whether both have a server of their own, and `engine.stream` lets them overlap."""
        apart = isinstance(other, SGLangEngine) and other.server is not self.server
        return apart and self.server.config.stream

    @property
    def to_prove(self) -> Sequence[tuple[Prompt, Completion]]:
        """The first rows since the last start, where all ranks are needed to compare them."""
        start, rows = self._unproven
        return rows if self.server.unproven and start == self.server.starts else ()

    def prove(
        self,
        rows: Sequence[tuple[Prompt, Completion]],
        sampling: Sampling,
        *,
        gathered: Callable[[Any], list[Any]] = lambda mine: [mine],
    ) -> None:
        """Compare log-probs with the trainer's own forward, once after every start.

        The server starts with dummy weights, so a parameter that no push reached shows here. Where
        weights are sharded, all ranks must come with the same rows, and all raise the same error.
        """
        gaps = torch.cat(gathered(self._gaps(rows, sampling.temperature or 1.0)))
        config = self.server.config
        tolerance = config.logprob_tolerance or TOLERANCE[config.dtype]
        check_gaps(gaps, tolerance=tolerance, name=self.name)
        if self.to_prove or not self._peers:  # else these were other ranks' rows alone
            self.server.passed()

    # ---- weights and memory

    def sync(self, model: Any) -> None:
        """From now on `model`'s present weights count. They travel before the next token is drawn.

        So an engine that shares its server pushes once for many syncs, and a sleeping one is not
        woken twice.
        """
        if model is not self.model:
            raise ValueError("this engine rolls out the model it was made with; make a new one")
        self.weight_version += 1
        self._synced = _written(model)

    def _ready(self) -> Wanted:
        """The server is up, awake, and holds these weights; returns them as the server knows them.

        A restart of the server asks for them again, while requests are open.
        """
        synced, server = self._synced, self.server

        def made(device: torch.device) -> Iterable[Bucket]:
            self._check_unchanged(synced)
            named = covered(self._weights_of(self.model), self.shapes)
            dtype = getattr(torch, server.config.dtype)
            return buckets(named, server.config.bucket_mb * 2**20, device, dtype)

        self._check_unchanged(synced)
        version, bring = self.weight_version, made
        if self._peers:
            # Before the server is looked at: whether an engine is well differs from rank to rank.
            if self._kept[0] != version:
                self._kept = (
                    version,
                    in_host_memory(made(weights_device(server.arguments)), self._kept[1]),
                )
            kept = self._kept[1]

            def bring(device: torch.device) -> Iterable[Bucket]:
                return (bucket.on(device) for bucket in kept)

        wanted = Wanted(name=self.name, version=version, buckets=bring)
        server.ready(wanted)
        return wanted

    def _check_unchanged(self, synced: tuple[int, ...]) -> None:
        if _written(self.model) != synced:
            raise RuntimeError(
                f"engine {self.name}: the weights changed since the last sync; call sync(model)"
                " after every update, or rollout and trainer part ways"
            )

    def sleep(self) -> None:
        """Give the device's memory back: cache, graphs and weights, of its neighbours too."""
        for server in self._neighbours.values():
            server.release()

    def wake(self) -> None:
        """Take the memory again and put the present weights there."""
        self._ready()

    def close(self) -> None:
        self.server.close()


def _written(model: Any) -> tuple[int, ...]:
    """Moves whenever a parameter is written in place."""
    return tuple(p._version for p in model.parameters())
