"""TRL on two processes (DDP over gloo): with our loss, the same training on both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from host_trl import assert_same
from trl_ranks import CASES

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    path = [HERE.parents[1], HERE, HERE.parent / "evaluate", os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(HERE / "trl_ranks.py", folder),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("kind", ["ours", "shared"])
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_as_in_trl(trained, case, kind):
    theirs, found = (
        [torch.load(trained / f"{case}-{one}-{rank}.pt") for rank in (0, 1)]
        for one in ("theirs", kind)
    )
    # The first rank logs.
    assert_same(theirs[0], found[0], steps=4, apart=() if case == "kl" else "entropy")
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], value, rtol=0, atol=0, msg=name)
