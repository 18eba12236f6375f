"""Rollout by SGLang: ids and processor output in, ids with log-probs out. See docs/ENGINE.md."""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sectow_fast.engine.protocol import Engine, EngineCodec
from sectow_fast.engine.reference import LogProbs, plain_logprobs
from sectow_fast.engine.sglang_batch import Batch
from sectow_fast.engine.sglang_rows import Request, Wanted
from sectow_fast.engine.sglang_server import SGLangServer
from sectow_fast.engine.streams import whole
from sectow_fast.engine.torch_engine import row_seeds
from sectow_fast.engine.weight_sync import Weights, checkpoint_weights, covered
from sectow_fast.types import Completion, Prompt, Sampling, UserError

BANNED = -1e9  # added to a banned token's logit: probability 0, and finite on its way through JSON


class SGLangEngine:
    """One model's engine. Several may share a server: it then holds one model's weights at a time.

    name: tells the sharers apart. shapes: name -> shape in the checkpoint from which the server was
    started; every push must cover them. neighbours: every server on the device, which sleep
    together; none: this one. logprobs: what the first rollout is compared with; none: with nothing.
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
        logprobs: LogProbs | None = plain_logprobs,
    ) -> None:
        self.server, self.model, self.codec = server, model, codec
        self.name, self.shapes, self._weights_of = name, shapes, weights_of
        self._logprobs = logprobs
        self._neighbours = neighbours if neighbours is not None else {name: server}
        self.weight_version = 0
        self._synced = _written(model)

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
        """Like `generate`, but at once: take the completions as they finish."""
        wanted = self._ready()
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

        def prove(first: Sequence[tuple[int, Completion]]) -> None:
            rows = [(prompts[i], one) for i, one in first]
            self._prove(self._logprobs, rows, sampling.temperature or 1.0)

        batch = Batch(
            self.server,
            requests,
            rows=rows,
            wanted=wanted,
            sampling=sampling,
            eos_id=self.codec.eos_id,
            prove=prove if self._logprobs else None,
        )
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

    def runs_beside(self, other: Engine) -> bool:
        """Whether both have a server of their own, and `engine.stream` lets them overlap."""
        apart = isinstance(other, SGLangEngine) and other.server is not self.server
        return apart and self.server.config.stream

    def _prove(
        self,
        logprobs: LogProbs,
        rows: Sequence[tuple[Prompt, Completion]],
        temperature: float,
    ) -> None:
        """Compare log-probs with the trainer's own forward, once after every start.

        The server starts with dummy weights, so a parameter that no push reached shows here.
        """
        worst = 0.0
        for prompt, one in rows:
            ours = logprobs(self.model, self.codec, prompt, one.ids, temperature)
            worst = max(worst, (ours - torch.tensor(one.logprobs)).abs().max().item())
        bound = self.server.config.logprob_tolerance
        if not worst <= bound:
            raise UserError(
                f"engine {self.name}: log-probs of the first rollout are {worst:.3g} from the"
                f" trainer's, expected <= {bound:g} (engine.logprob_tolerance); look at weight"
                " names, image features, precision and temperature"
            )

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
        synced = self._synced

        def weights() -> list[tuple[str, torch.Tensor]]:
            self._check_unchanged(synced)
            return covered(self._weights_of(self.model), self.shapes)

        self._check_unchanged(synced)
        wanted = Wanted(name=self.name, version=self.weight_version, weights=weights)
        self.server.ready(wanted)
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
