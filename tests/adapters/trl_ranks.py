"""One of several processes in TRL's own DDP training: `trl_ranks.py FOLDER`.

Every kind of training that the tests compare, one after the other in the same process group.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from host_trl import run
from tiny_models import save_qwen2_5_vl

from sectow_fast.config import Config
from sectow_fast.data.sandbox.stage import SandboxStage

MODELS = ("text", "qwen")
KINDS = ("theirs", "ours", "shared")

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    stage = SandboxStage(Config())
    names = {(m, k): f"{m}-{k}-{os.environ['RANK']}" for m in MODELS for k in KINDS}
    # Before there is a process group, in which only its first rank would write.
    for (model, _), name in names.items():
        if model == "qwen":
            save_qwen2_5_vl(folder / name / "model")
    for (model, kind), name in names.items():
        found = run(
            *(stage, folder / name),
            ours=kind != "theirs",
            shared=kind == "shared",
            model=model,
            # So few that some micro-batches have nothing live on one of the ranks.
            per_device_train_batch_size=2,
            num_iterations=2,
            ddp_find_unused_parameters=False,
        )
        torch.save(found, folder / f"{name}.pt")
