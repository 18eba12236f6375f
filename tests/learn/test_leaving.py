"""Two ranks leave together, whatever befalls one of them (learn/leaving.py), and decide alike."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from multiprocessing.connection import Pipe
from pathlib import Path

import pytest

from sectow_fast.learn.leaving import Cause, Lines

KILLED = -signal.SIGKILL
# case -> (exit codes, what is said once). A rank that was left behind would sleep on and end by 0.
EXPECTED = {
    "user_error": ([2, 2], "error: the engine of this rank gave up (rank 1)"),
    "same_user_error": ([2, 2], "error: both find this"),
    "bug": ([1, 1], "error: rank 1 failed: TypeError: a bug"),
    "stop_at_once": ([130, 130], "stopped at once; --resume goes on"),
    "kill_second": ([1, KILLED], "error: rank 1 ended without a word"),
    "kill_first": ([KILLED, 1], "error: rank 0 ended without a word"),
    "kill_beside_one_that_cannot_hear": ([1, KILLED], "error: rank 1 ended without a word"),
    "stuck": (
        [1, 1],
        "error: rank 0 waited for longer than learn.rank_timeout for one that is alive; raise",
    ),
    "late": ([0, 0], ""),
    "killed_while_the_first_reports": ([1, KILLED], "error: rank 1 ended without a word"),
    "judged": ([0, 0], ""),
    "plans_differ": (
        [2, 2],
        "error: plan: found another one on rank 1 than on the first (place 1: 1 there, 2 on",
    ),
}


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("parting_ranks.py"))],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found.keys() == EXPECTED.keys()
    return found


@pytest.mark.parametrize("case", EXPECTED)
def test_all_leave_with_one_code_and_the_cause_is_said_once(found, case):
    codes, words = EXPECTED[case]
    assert found[case]["codes"] == codes, found[case]["said"]
    said = found[case]["said"]
    assert words in said and said.count("error: ") == ("error: " in words), said
    assert ("Traceback" in said) == (case in ("bug", "stuck"))


def test_a_sure_cause_is_waited_for_behind_what_may_be_consequences():
    def cause(rank, *, sure):
        return Cause(rank=rank, code=2 if sure else 1, words=f"of {rank}", sure=sure)

    lines, others = zip(*(Pipe() for _ in range(4)), strict=True)
    lead = Lines.__new__(Lines)
    ended = []
    lead._end = lambda found, everyone, *, speaks: ended.append((found, len(everyone), speaks))
    thread = threading.Thread(target=lead._lead, args=({line: i for i, line in enumerate(lines)},))
    thread.start()
    for rank, sure in ((1, False), (2, False), (3, True)):
        others[rank].send_bytes(json.dumps(asdict(cause(rank, sure=sure))).encode())
        time.sleep(0.1)
    thread.join(10)
    assert ended == [(cause(3, sure=True), 4, True)]
