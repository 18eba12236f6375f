"""One of several processes in TRL's own DDP training: `trl_ranks.py FOLDER`.

Every kind of training that the tests compare, one after the other in the same process group.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from host_trl import models, run

from sectow_fast.config import Config
from sectow_fast.data.sandbox.stage import SandboxStage

# Which model, and its options. With a KL term every row goes through the head, as in TRL, so the
# logged entropy is TRL's too.
CASES = {"text": ("text", {}), "qwen": ("qwen", {}), "kl": ("text", {"beta": 0.1})}
KINDS = ("theirs", "ours", "shared")

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    stage = SandboxStage(Config())
    names = {(c, k): f"{c}-{k}-{os.environ['RANK']}" for c in CASES for k in KINDS}
    # Before there is a process group, in which only its first rank would write.
    for (case, _), name in names.items():
        models(stage, folder / name, CASES[case][0])
    for (case, kind), name in names.items():
        model, options = CASES[case]
        found = run(
            *(stage, folder / name),
            ours=kind != "theirs",
            shared=kind == "shared",
            model=model,
            # So few that some micro-batches have nothing live on one of the ranks.
            per_device_train_batch_size=2,
            num_iterations=2,
            ddp_find_unused_parameters=False,
            **options,
        )
        torch.save(found, folder / f"{name}.pt")
