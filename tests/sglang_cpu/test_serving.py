"""The real SGLang over HTTP: as the judge's endpoint, and as the engine of an evaluation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sglang")
sys.path.append(str(Path(__file__).parents[1] / "evaluate"))

import layouts
import psutil
from tiny_guard import make_guard
from tiny_models import save_qwen2_5_vl

from sectow_fast.evaluate import main
from sectow_fast.judges import GUARD_FORMATS, EndpointJudge, JudgeRequest
from sectow_fast.judges.model import ModelJudge
from sectow_fast.serving.cache import AnswerCache
from sectow_fast.serving.client import ChatClient
from sectow_fast.serving.sglang import sglang_server
from sectow_fast.types import UserError

QWEN3GUARD = GUARD_FORMATS.get("qwen3guard")
SHORT = ("--context-length", "1024", "--max-running-requests", "32", "--dtype", "float32")


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    return make_guard(tmp_path_factory.mktemp("guard") / "tiny-guard")


@pytest.fixture(scope="module")
def parent(guard, tmp_path_factory):
    """A process that serves the guard; its first line is the address up to /v1."""
    log = tmp_path_factory.mktemp("log") / "sglang.log"
    code = f"""
import time
from pathlib import Path
from sectow_fast.serving.sglang import sglang_server
with sglang_server(Path({str(guard)!r}), Path({str(log)!r}), more={SHORT!r}) as url:
    print(url, flush=True)
    time.sleep(3600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def server(parent):
    return parent.stdout.readline().strip()


def test_the_judge_over_http_says_what_the_engine_says(server, guard, tmp_path):
    replies = ["use bado1 bado2", "sorry can not", "fold it", "use red", "sorry"] * 8
    requests = [JudgeRequest(request=f"fold bado{i}", reply=r) for i, r in enumerate(replies)]
    cache = AnswerCache(tmp_path / "judge.sqlite")
    judge = EndpointJudge(ChatClient(url=server, concurrency=8, cache=cache), QWEN3GUARD)
    there = dict(judge.judge(requests))
    here = dict(ModelJudge(guard, QWEN3GUARD).judge(requests))
    assert sorted(there) == list(range(40))
    for number, verdict in here.items():
        mine = (verdict.label, verdict.refusal, verdict.raw)
        assert (there[number].label, there[number].refusal, there[number].raw) == mine
        assert there[number].prompt_tokens == verdict.prompt_tokens
    assert {one.label for one in there.values()} == {"safe", "unsafe"}
    again = EndpointJudge(ChatClient(url=server, cache=cache), QWEN3GUARD)
    assert dict(again.judge(requests)) == there
    assert (again.client.spent.requests, again.client.spent.cached) == (0, 40)


def test_a_conversation_too_long_for_the_server_is_unknown(server):
    judge = EndpointJudge(ChatClient(url=server, retries=1), QWEN3GUARD)
    long = JudgeRequest(request="fold it", reply="use bado " * 400)
    ((_, verdict),) = judge.judge([long])
    assert verdict.label == "unknown" and "HTTP 400" in verdict.reason


def test_an_evaluation_by_sglang_replies_as_transformers_does(server, tmp_path):
    model = save_qwen2_5_vl(tmp_path / "qwen")
    for name in ("figstep", "mossbench", "xstest"):
        layouts.WRITERS[name](tmp_path / name)
    replies = {}
    for engine in ("torch", "sglang"):
        out = tmp_path / engine
        code = main(
            [
                *("--model", f"q={model}", "--engine", engine, "--out", str(out)),
                *("--suite", f"figstep={tmp_path / 'figstep'},xstest={tmp_path / 'xstest'}"),
                *("--suite", f"mossbench={tmp_path / 'mossbench'}", "--max-new-tokens", "6"),
                *("--judge", "endpoint", "--judge-url", server, "--dtype", "float32"),
            ]
        )
        assert code == 0
        lines = (out / "rows" / "q" / "records.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        replies[engine] = {r["test_case_id"]: r["model_response"] for r in found}
        assert not any(r["response_error"] for r in found)
        assert all(r["judge_id"].startswith("endpoint:") for r in found if r["answer"] is None)
    same = sum(replies["torch"][key] == replies["sglang"][key] for key in replies["torch"])
    # A random model has near ties, which float32 sums in another order may decide otherwise.
    assert len(replies["torch"]) == 35 and same >= 31


def test_a_killed_evaluation_leaves_no_server_behind(parent, server):
    """The last one here that the server is asked for."""
    family = psutil.Process(parent.pid).children(recursive=True)
    assert len(family) >= 3  # the server, its scheduler, its detokenizer
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def test_a_folder_that_sglang_cannot_serve(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with (
        pytest.raises(UserError, match=r"the server ended; its last words"),
        sglang_server(tmp_path, tmp_path / "log"),
    ):
        pass
