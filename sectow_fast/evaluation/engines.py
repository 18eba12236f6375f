"""Who replies in an evaluation, by the name that `--engine` gives."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sectow_fast.evaluation.repliers import EndpointReplier, Replier, TransformersReplier
from sectow_fast.evaluation.settings import Settings
from sectow_fast.serving.client import ChatClient


@contextlib.contextmanager
def replier_of(path: str, settings: Settings, *, log: Path) -> Iterator[Replier]:
    """Who replies for the model at `path` by `--engine`, with its server as long as it is needed.

    log: where a server that is started here writes.
    """
    if settings.engine == "torch":
        yield TransformersReplier(
            Path(path),
            batch=settings.batch,
            max_new_tokens=settings.max_new_tokens,
            dtype=settings.dtype,
            max_pixels=settings.max_pixels,
        )
        return
    more: dict[str, Any] = {
        "timeout": settings.timeout,
        "retries": settings.retries,
        "concurrency": settings.concurrency,
    }
    if settings.engine == "endpoint":
        key = os.environ.get(settings.judge_key_env)
        client = ChatClient(url=settings.endpoint, model=path, key=key, **more)
        yield EndpointReplier(client, max_new_tokens=settings.max_new_tokens)
        return
    from sectow_fast.serving.sglang import sglang_server

    flags = () if settings.dtype == "auto" else ("--dtype", settings.dtype)
    with sglang_server(Path(path), log, more=flags) as url:
        yield EndpointReplier(ChatClient(url=url, **more), max_new_tokens=settings.max_new_tokens)
