"""What `test_leaving.py` runs: for each case two ranks, without torchrun, which would end them too.

python parting_ranks.py; prints {case: {"codes", "said"}} as JSON. The imports are paid once, as the
ranks are forks of this process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback

import torch

from sectow_fast.judges import Judgement, JudgeRequest, SharedJudge
from sectow_fast.learn.leaving import RankLeft
from sectow_fast.learn.ranks import joined
from sectow_fast.types import UserError

GRACE, TIMEOUT = 3.0, 4.0


class Coin:
    """A judge that answers each rank otherwise."""

    def __init__(self, rank):
        self.rank, self.id = rank, f"coin-{rank}"

    def judge(self, requests):
        label = "unsafe" if self.rank == 0 else "safe"
        yield from ((i, Judgement(label=label, refusal="none")) for i in range(len(requests)))


def user_error(ranks):
    if ranks.rank == 1:
        raise UserError("the engine of this rank gave up")
    ranks.barrier()


def same_user_error(ranks):
    raise UserError("both find this")


def bug(ranks):
    if ranks.rank == 1:
        raise TypeError("a bug")
    ranks.barrier()


def stop_at_once(ranks):
    if ranks.rank == 1:
        raise KeyboardInterrupt
    ranks.barrier()


def kill_second(ranks):
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.barrier()


def kill_first(ranks):
    if ranks.rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.barrier()


def kill_beside_one_that_cannot_hear(ranks):
    """As inside a GPU's kernel: the other rank does not come back to our code."""
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    os._exit(0)


def stuck(ranks):
    if ranks.rank == 1:
        time.sleep(60)  # alive, but never comes
    ranks.barrier()


def late(ranks):
    if ranks.rank == 0:
        time.sleep(1)  # as the first does, which writes the report


def killed_while_the_first_reports(ranks):
    if ranks.rank == 0:
        time.sleep(60)
    os.kill(os.getpid(), signal.SIGKILL)


def judged(ranks):
    judge = SharedJudge(lambda: Coin(ranks.rank), ranks.told)
    requests = [JudgeRequest(request="r", reply=str(i)) for i in range(3)]
    mine = [judge.id, *(verdict.label for _, verdict in judge.judge(requests))]
    assert ranks.gathered(mine) == [["coin-0", "unsafe", "unsafe", "unsafe"]] * 2


def plans_differ(ranks):
    ranks.agree("plan", (1, 2))
    ranks.agree("plan", (1, 2 - ranks.rank))


CASES = (
    *(user_error, same_user_error, bug, stop_at_once, kill_second, kill_first),
    *(kill_beside_one_that_cannot_hear, stuck, late, killed_while_the_first_reports),
    *(judged, plans_differ),
)


def play(case, rank, port, said):
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.dup2(said.fileno(), 2)
    code = 99
    try:
        with joined(timeout=TIMEOUT, grace=GRACE) as ranks:
            case(ranks)
        code = 0
    except RankLeft as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def started(case):
    """(both ranks' processes, the file of what they say)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read by main
    pids = []
    for rank in range(2):
        pids.append(os.fork())
        if pids[-1] == 0:
            play(case, rank, port, said)
    return pids, said


def main():
    torch.set_num_threads(1)
    running = {case.__name__: started(case) for case in CASES}
    out = {}
    for name, (pids, said) in running.items():
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        said.seek(0)
        out[name] = {"codes": codes, "said": said.read()}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
