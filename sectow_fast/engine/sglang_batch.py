"""Samples under way in an SGLang engine: taken as they finish, checked, asked for again."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Iterator, Sequence
from typing import Any

from sectow_fast.engine.sglang_rows import Request, Row
from sectow_fast.types import Completion, Prompt, Sampling, UserError

RESENDS = 2  # bad rows a request may have before the run stops
PROVEN_ROWS = 4  # of the first rollout, compared with the trainer


class Batch:
    """Requests under way. Iterate it (`each`), take all of it (`whole`), or `abort` the rest."""

    def __init__(
        self,
        engine: Any,
        requests: Sequence[Request],
        rows: queue.SimpleQueue,
        prompts: Sequence[Prompt],
        n: int,
        sampling: Sampling,
    ) -> None:
        self._engine, self._rows, self._prompts, self._n = engine, rows, prompts, n
        self._sampling, self._label = sampling, engine._label
        self._open = {request.key: request.rid for request in requests}

    def each(self, *, wait: bool = True) -> Iterator[tuple[int, int, Completion]]:
        """(prompt number, sample number, completion) in the order they finish.

        wait False: those that are there, and no more. A short or broken row is asked for again;
        UserError after the third.
        """
        server, proof = self._engine.server, []
        while self._open:
            row = server.next_row(self._rows, wait=wait)
            if row is None:
                return
            key = row.request.key
            if self._open.get(key) != row.request.rid:
                continue  # aborted or asked for again meanwhile
            problem = self._problem(row)
            if problem:
                self._again(row.request, problem)
                continue
            del self._open[key]
            done = Completion(
                ids=row.ids,
                logprobs=row.logprobs,
                finish_reason="stop" if row.reason == "stop" else "length",
                weight_version=self._engine.weight_version,
            )
            if server.proven != server.starts and not _sharded(self._engine.model):
                proof.append((self._prompts[key[0]], done))
                if len(proof) == PROVEN_ROWS or not self._open:
                    self._engine.prove(proof, self._sampling.temperature or 1.0)
                    proof = []
            yield *key, done

    def whole(self) -> list[list[Completion]]:
        """All completions, [prompts][n]."""
        out: list[list[Any]] = [[None] * self._n for _ in self._prompts]
        for i, j, done in self.each():
            out[i][j] = done
        return out

    def abort(self) -> int:
        """Stop what is still open; how many that were."""
        stopped = self._engine.server.abort(list(self._open.values()))
        self._open = {}
        return stopped

    def _problem(self, row: Row) -> str | None:
        eos, limit = self._engine.codec.eos_id, self._sampling.max_new_tokens
        if row.reason not in ("stop", "length"):
            return f"finish reason {row.reason!r}, expected stop or length"
        if len(row.logprobs) != len(row.ids) or not row.ids:
            return f"{len(row.ids)} tokens with {len(row.logprobs)} log-probs"
        if row.reason == "length" and len(row.ids) != limit:
            return f"{len(row.ids)} tokens, cut by length, expected {limit}"
        if row.reason == "stop" and row.ids[-1] != eos:
            return f"a stop at token {row.ids[-1]}, expected the end token {eos}"
        if row.version != self._label:
            return f"weights {row.version!r}, expected {self._label!r}"
        return None

    def _again(self, request: Request, problem: str) -> None:
        server = self._engine.server
        server.counts["bad_rows"] += 1
        if request.bad >= RESENDS:
            raise UserError(
                f"engine {self._engine.name}: a request came back wrong {RESENDS + 1} times"
                f" ({problem}); {server.log} has what SGLang wrote"
            )
        again = dataclasses.replace(request, rid=server.next_rid(), bad=request.bad + 1)
        self._open[again.key] = again.rid
        server.counts["resent"] += 1
        server.submit([again])


def _sharded(model: Any) -> bool:
    return any(hasattr(p, "full_tensor") for p in model.parameters())
