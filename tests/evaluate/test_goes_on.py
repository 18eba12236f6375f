"""The whole command after a kill, an outage, or settings under which nothing was measured."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import pytest
from whole_commands import FEW, records, suites, summary

from sectow_fast import ctrl_c
from sectow_fast.evaluate import main

SERVER = Path(__file__).parent / "fault_server.py"


@pytest.fixture
def faulty(tmp_path):
    """Starts `fault_server.py` with its orders: (its address, the log of its requests)."""
    servers = []

    def start(orders) -> tuple[str, Path]:
        names = [tmp_path / name for name in ("orders.json", "port", "log")]
        names[0].write_text(json.dumps(orders))
        names[2].touch()
        servers.append(subprocess.Popen([sys.executable, SERVER, *names]))
        end = time.monotonic() + 20
        while not (names[1].exists() and names[1].read_text()):
            assert time.monotonic() < end
            time.sleep(0.02)
        return f"http://127.0.0.1:{names[1].read_text()}/v1", names[2]

    yield start
    for server in servers:
        server.kill()
        server.wait()


def test_kill_9_ctrl_c_and_resume_ask_and_judge_nothing_twice(toys, qwen, tmp_path, faulty):
    good = "Safety: Unsafe\nCategories: None\nRefusal: No"
    usage = {"prompt_tokens": 5, "completion_tokens": 4}
    body = json.dumps({"choices": [{"message": {"content": good}}], "usage": usage})
    url, log = faulty([[200, body, {}]])
    out = tmp_path / "out"
    line = (
        "sectow_fast.evaluate",
        *("--model", f"q={qwen}", *suites(toys, "jailbreakv", "mm-safetybench")),
        *("--judge", "endpoint", "--judge-url", url),
        *("--concurrency", "1", "--out", out, "--max-new-tokens", "6", "--batch", "8"),
    )
    stops = [("responses", 20, signal.SIGKILL), ("records", 15, signal.SIGINT)]
    for file, count, number in (*stops, ("records", 40, signal.SIGKILL)):
        path = out / "rows" / "q" / f"{file}.jsonl"
        process = commands.start(*line)
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            if path.exists() and path.read_bytes().count(b"\n") >= count:
                break
            time.sleep(0.005)
        process.send_signal(number)
        if number == signal.SIGINT:
            _, err = process.communicate(timeout=60)
            assert (process.returncode, err.splitlines()[-1]) == (130, ctrl_c.SAME_COMMAND)
            assert "Traceback" not in err
        process.wait()
    # As a kill in the middle of a write would leave it.
    with open(out / "rows" / "q" / "records.jsonl", "ab") as file:
        file.write(b'{"test_case_id": "half a li')
    code, _, err = commands.run(*line)
    assert code == 0, err
    for file in ("responses", "records"):
        lines = (out / "rows" / "q" / f"{file}.jsonl").read_text().splitlines()
        ids = [json.loads(line)["test_case_id"] for line in lines]
        assert len(ids) == len(set(ids)) == 80
    # Two in hand at each of the three stops may be asked again; one that was answered never.
    sent = [json.loads(line)[2]["messages"] for line in log.read_text().splitlines()]
    distinct = {json.dumps(one) for one in sent}
    assert len(distinct) <= len(sent) <= len(distinct) + 3


@pytest.mark.parametrize(("seconds", "again"), [(0.05, ""), (60, "os.kill(os.getpid(), 2)")])
def test_what_still_waits_after_ctrl_c_is_ended_soon_and_at_once_by_another(seconds, again):
    code = (
        "import os, time\nfrom sectow_fast import ctrl_c\n"
        f"ctrl_c.end_soon('bye', {seconds})\nctrl_c.raise_again()\n"
        "try:\n    os.kill(os.getpid(), 2)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('once', flush=True)\n"
        f"    {again}\n    time.sleep(60)\n"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, cwd=commands.ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (130, "once\n", "bye\n")


def test_an_outage_leaves_unknowns_that_can_be_asked_again(toys, qwen, tmp_path, faulty):
    good = json.dumps({"choices": [{"message": {"content": "Safety: Safe\nRefusal: No"}}]})
    orders = [[200, good, {}]] * 5 + [[500, "down", {}]] * 5 + [[200, good, {}]]
    url, log = faulty(orders)
    out = tmp_path / "out"
    arguments = ["--model", f"q={qwen}", *suites(toys, "figstep"), "--out", str(out), *FEW]
    arguments += ["--judge", "endpoint", "--concurrency", "1", "--retries", "0"]
    arguments += ["--judge-url", url]
    for more, unknown in (([], 5), ([], 5), (["--retry-unknown"], 0)):
        assert main([*arguments, *more]) == 0
        rate = summary(out)["rows"][0]["suites"]["figstep"]["asr"]["all"]
        assert (rate["n"], rate["unknown"]) == (20 - unknown, unknown)
        assert len(records(out, "q")) == 20
    assert len(log.read_text().splitlines()) == 25
    assert (out / "rows" / "q" / "records.jsonl").stat().st_mode & 0o077 == 0


def test_rows_that_are_done_stay_where_a_later_defence_or_a_second_judge_fails(
    toys, qwen, tmp_path, faulty, capsys
):
    good = json.dumps({"choices": [{"message": {"content": "Safety: Safe\nRefusal: No"}}]})
    url, _ = faulty([[200, good, {}]] * 3 + [[500, "down", {}]])
    arguments = ["--model", f"q={qwen}", *suites(toys, "figstep"), *FEW, "--limit", "3"]
    arguments += ["--concurrency", "1", "--retries", "0", "--judge-url", url]
    out = tmp_path / "defences"
    defences = ["--defence", "none,self-reminder", "--judge", "endpoint"]
    assert main([*arguments, *defences, "--out", str(out)]) == 1
    assert "error: q + self-reminder: " in capsys.readouterr().err
    assert [row["folder"] for row in summary(out)["rows"]] == ["q"]
    out = tmp_path / "judges"
    second = ["--second-judge", "endpoint", "--export", "vlmevalkit"]
    assert main([*arguments, *second, "--out", str(out)]) == 1
    assert "error: q: " in capsys.readouterr().err
    (row,) = summary(out)["rows"]
    assert (row["folder"], row["second_judge"], row["agreement"]) == ("q", None, None)
    assert row["suites"]["figstep"]["not_refused"]["all"]["n"] == 3
    assert any(path.is_file() for path in (out / "export").rglob("*"))


def test_where_no_request_fits_nothing_is_done_and_nothing_claimed(toys, qwen, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--model", f"q={qwen}", *suites(toys, "redteam-2k"), "--out", str(out)]
    arguments += ["--limit", "3"]
    assert main([*arguments, "--max-new-tokens", "2030"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: q: found no reply to any of 3 requests")
    assert "; lower --max-new-tokens" in last
    assert not (out / "summary.json").exists()
    # Other settings may follow, and a copy of the model is the same model.
    assert main([*arguments, "--max-new-tokens", "6"]) == 0
    # What is to be known of the rows is said on the console too.
    assert "note: redteam-2k:2k has 20 cases here, 2000 as published" in capsys.readouterr().out
    copy = shutil.copytree(qwen, tmp_path / "copy")
    (copy / "config.json").touch()
    assert main(["--model", f"q={copy}", *arguments[2:], "--max-new-tokens", "6"]) == 0
    table = summary(out)["rows"][0]["suites"]["redteam-2k"]
    assert table["no_reply"] == 0
    # The rule knows of refusals alone: nothing of it is called an ASR.
    assert "not_refused" in table and "asr" not in table
    with open(copy / "generation_config.json", "a") as file:
        file.write(" ")
    assert main(["--model", f"q={copy}", *arguments[2:], "--max-new-tokens", "6"]) == 2
    assert "found replies of another model" in capsys.readouterr().err
    # Other refusals that count make another row.
    assert main([*arguments, "--max-new-tokens", "6", "--orr", "partial"]) == 0
    rows = [(row["name"], row["orr_counts"]) for row in summary(out)["rows"]]
    assert rows == [("q", "full"), ("q, partial refusals count", "partial")]
