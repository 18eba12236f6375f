"""Samples under way in an SGLang engine: taken as they finish, checked, asked for again."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence

from sectow_fast.engine.sglang_rows import Request, Row, Wanted, problem
from sectow_fast.engine.sglang_server import SGLangServer
from sectow_fast.types import Completion, Sampling, UserError

RESENDS = 2  # bad rows that one request may have before the run stops
PROVEN_ROWS = 4  # of the first rollout of each rank, compared with the trainer

# Compares completions, each with its prompt's number, with the trainer; raises where they differ.
Prove = Callable[[Sequence[tuple[int, Completion]]], None]


class Batch:
    """A `Stream` of `n` samples per prompt, of `prompts` prompts that enter as the server has room.

    requests(i): the samples of prompt i; called when the prompt is about to be sent. rows: where
    the server puts what comes back. prove: called with the first completions after each start of
    the server.
    """

    def __init__(
        self,
        server: SGLangServer,
        requests: Callable[[int], Sequence[Request]],
        *,
        prompts: int,
        n: int,
        rows: queue.SimpleQueue,
        wanted: Wanted,
        sampling: Sampling,
        end_ids: Sequence[int],
        prove: Prove,
    ) -> None:
        self._server, self._rows, self._wanted = server, rows, wanted
        self._limit, self._ends, self._prove = sampling.max_new_tokens, end_ids, prove
        self._left = prompts * n  # samples that were not given out yet
        self._open: dict[tuple[int, int], str] = {}  # those that were sent: key -> request id
        self._entering = self._groups(requests, prompts)
        server.submit(self._entering)

    def _groups(
        self, requests: Callable[[int], Sequence[Request]], prompts: int
    ) -> Iterator[Sequence[Request]]:
        for i in range(prompts):
            group = requests(i)
            self._open |= {request.key: request.rid for request in group}
            yield group

    def each(self, *, wait: bool = True) -> Iterator[tuple[int, int, Completion]]:
        """See `Stream`. A short or broken row is asked for again; UserError after the third."""
        proof: list[tuple[int, Completion]] = []
        start = 0
        while self._left:
            row = self._server.next_row(self._rows, wait=wait)
            if row is None:
                return
            key = row.request.key
            if self._open.get(key) != row.request.rid:
                continue  # stopped or asked for again meanwhile
            found = problem(row, end_ids=self._ends, limit=self._limit, label=self._wanted.label)
            if found:
                self._again(row.request, found)
                continue
            del self._open[key]
            self._left -= 1
            done = self._completion(row)
            if not self._left:
                self._server.withdraw(self._entering)
            if self._server.unproven:
                if start != self._server.starts:
                    start, proof = self._server.starts, []
                if row.start == start:  # rows of an earlier start prove nothing of this one
                    proof.append((key[0], done))
                if proof and (len(proof) == PROVEN_ROWS or not self._left):
                    self._prove(proof)
                    proof = []
            yield *key, done

    def close(self) -> None:
        """Stop what is still open, and send no more."""
        self._server.withdraw(self._entering)
        self._server.abort(list(self._open.values()))
        self._open, self._left = {}, 0

    def _completion(self, row: Row) -> Completion:
        return Completion(
            ids=row.ids,
            logprobs=row.logprobs,
            finish_reason="stop" if row.reason == "stop" else "length",
            weight_version=self._wanted.version,
        )

    def _again(self, request: Request, found: str) -> None:
        if request.bad >= RESENDS:
            raise UserError(
                f"engine {self._wanted.name}: a request came back wrong {RESENDS + 1} times"
                f" ({found}); {self._server.log} has what SGLang wrote"
            )
        self._open[request.key] = self._server.ask_again(request).rid
