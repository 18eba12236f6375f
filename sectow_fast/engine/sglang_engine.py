"""Rollout by SGLang: ids and processor output in, ids with log-probs out. See docs/ENGINE.md."""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sectow_fast.engine.sglang_batch import PROVEN_ROWS, Batch
from sectow_fast.engine.sglang_rows import EngineDied, Request
from sectow_fast.engine.sglang_server import SGLangServer
from sectow_fast.engine.torch_engine import row_seeds
from sectow_fast.engine.weight_sync import Weights, checkpoint_weights, covered
from sectow_fast.types import Completion, Prompt, Sampling, UserError

BANNED = -1e9  # added to a banned token's logit: probability 0, and finite on its way through JSON


class SGLangEngine:
    """One model's engine. Several may share a server: it then holds one model's weights at a time.

    name: tells the sharers apart. shapes: name -> shape in the checkpoint the server was started
    from; every push must cover them. codec: as for TorchEngine. neighbours: every server on the
    device, which sleep together.
    """

    def __init__(
        self,
        server: SGLangServer,
        model: Any,
        codec: Any,
        *,
        name: str,
        shapes: Mapping[str, tuple[int, ...]],
        neighbours: Mapping[str, SGLangServer] | None = None,
        weights_of: Weights = checkpoint_weights,
    ) -> None:
        self.server, self.model, self.codec = server, model, codec
        self.name, self.shapes, self._weights_of = name, shapes, weights_of
        self._neighbours = neighbours if neighbours is not None else {name: server}
        self.weight_version = 0
        self.seconds = {"sync": 0.0, "sleep": 0.0, "wake": 0.0}
        self.synced_bytes = 0
        self._synced = _versions(model)

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
        """n completions of each prompt, in order; see `Engine`.

        A request that a dying engine took along is sent again, so the answer is always whole.
        """
        return self.submit(prompts, n=n, sampling=sampling, seed=seed, numbers=numbers).whole()

    def submit(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        seed: str,
        numbers: Sequence[int] | None = None,
    ) -> Batch:
        """Like `generate`, but at once: take the completions from the batch as they finish."""
        self._ready()
        seeds = row_seeds(seed, range(len(prompts)) if numbers is None else numbers, n)
        rows: queue.SimpleQueue = queue.SimpleQueue()
        shared = self._sampling(sampling)
        requests = []
        for i, prompt in enumerate(prompts):
            inputs = self.codec.pixel_inputs([prompt])
            # One object for all samples: they travel together, the pixels once.
            pixels = {name: value.numpy() for name, value in inputs.items()} or None
            for j in range(n):
                requests.append(
                    Request(
                        rid=self.server.next_rid(),
                        key=(i, j),
                        ids=prompt.ids,
                        pixels=pixels,
                        # SGLang takes a signed number; it heeds it in deterministic mode.
                        sampling=shared | {"sampling_seed": int(seeds[i, j] >> 1)},
                        rows=rows,
                    )
                )
        batch = Batch(self, requests, rows, prompts, n, sampling)
        self.server.submit(requests)
        return batch

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
            "stop_token_ids": [self.codec.eos_id],
            "logit_bias": {str(i): BANNED for i in self.codec.banned_ids},
            "skip_special_tokens": False,
        }

    def runs_beside(self, other: Any) -> bool:
        """Whether both can have requests open at once."""
        apart = isinstance(other, SGLangEngine) and other.server is not self.server
        return apart and self.server.config.stream

    # ---- weights

    def sync(self, model: Any) -> None:
        """From now on `model`'s present weights count. They travel before the next token is drawn.

        So an engine that shares its server pushes once for many syncs, and a sleeping one is not
        woken twice.
        """
        if model is not self.model:
            raise ValueError("this engine rolls out the model it was made with; make a new one")
        self.weight_version += 1
        self._synced = _versions(model)

    @property
    def _label(self) -> str:
        return f"{self.name}:{self.weight_version}"

    def _ready(self) -> None:
        """The server is up, awake, and holds these weights."""
        if _versions(self.model) != self._synced:
            raise RuntimeError(
                f"engine {self.name}: the weights changed since the last sync; call sync(model)"
                " after every update, or rollout and trainer part ways"
            )
        server = self.server
        if server.open_requests and server.holds not in (None, self._label):
            raise RuntimeError(
                f"engine {self.name}: {server.open_requests} requests of {server.holds!r} are open;"
                " take or abort them first"
            )
        server.on_start = self._push
        try:
            if not server.alive:
                # A first start, or one that died while nobody waited.
                if server.starts:
                    server.revive("it died while idle")
                else:
                    server.start()
                    self._push()
            elif server.asleep or server.holds != self._label:
                self._push()
        except EngineDied as error:
            server.revive(str(error))

    def _push(self) -> None:
        """Weights in the order that keeps the memory's peak low: weights, push, then the cache."""
        server, began = self.server, time.perf_counter()
        if server.asleep:
            server.call("resume", ["weights"])
        woken = time.perf_counter()
        if server.holds != self._label or server.forgets:
            named = covered(self._weights_of(self.model), self.shapes)
            self.synced_bytes = server.push(named, self._label)
            server.holds = self._label
        pushed = time.perf_counter()
        if server.asleep:
            server.call("resume", ["kv_cache", "cuda_graph"])
            server.asleep = False
        end = time.perf_counter()
        self.seconds["sync"] = pushed - woken
        self.seconds["wake"] = (woken - began) + (end - pushed)

    # ---- memory

    def sleep(self) -> None:
        """Give the device's memory back: cache, graphs and weights, of its neighbours too."""
        began = time.perf_counter()
        for server in self._neighbours.values():
            if not server.alive or server.asleep:
                continue
            try:
                server.call("flush")
                server.call("release", None)
                server.asleep = True
            except EngineDied:
                continue  # a dead engine holds no memory; the next rollout starts a new one
        self.seconds["sleep"] = time.perf_counter() - began

    def wake(self) -> None:
        """Take the memory again and put the present weights there."""
        self._ready()

    def close(self) -> None:
        self.server.close()

    # ---- proof

    def prove(self, rows: Sequence[tuple[Prompt, Completion]], temperature: float) -> None:
        """Compare log-probs with the trainer's own forward, once after every start.

        The server starts with dummy weights, so a parameter that no push reached shows here.
        """
        from sectow_fast.engine.reference import plain_logprobs

        worst = 0.0
        for prompt, one in rows[:PROVEN_ROWS]:
            ours = plain_logprobs(self.model, self.codec, prompt, one.ids, temperature)
            worst = max(worst, (ours - torch.tensor(one.logprobs)).abs().max().item())
        bound = self.server.config.logprob_tolerance
        if not worst <= bound:
            raise UserError(
                f"engine {self.name}: log-probs of the first rollout are {worst:.3g} from the"
                f" trainer's, expected <= {bound:g} (engine.logprob_tolerance); look at weight"
                " names, image features, precision and temperature"
            )
        self.server.proven = self.server.starts


def _versions(model: Any) -> tuple[int, ...]:
    """Moves whenever a parameter is written in place."""
    return tuple(p._version for p in model.parameters())
