"""Two updates of a tiny model in each way to train it; `test_sharding.py` runs it on two ranks too.

python modes.py OUT, by torchrun.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from families import MODELS, sample
from torch.utils._python_dispatch import TorchDispatchMode

from sectow_fast.config import LearnConfig
from sectow_fast.learn.policy import make_policy
from sectow_fast.learn.ranks import ALONE, joined
from sectow_fast.learn.sft import sft_step
from sectow_fast.learn.sharding import whole_weights

MODES = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "checkpointed": {"dtype": "bfloat16", "gradient_checkpointing": True},
    "lora": {"lora_rank": 4},
    "replicas": {"replicas": 2},
    "offload": {},
}


class Reductions(TorchDispatchMode):
    """Counts the sums over ranks that are asked for while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "reduce" in str(func) and "c10d" in str(func)
        return func(*args, **(kwargs or {}))


def trained(mode: str, *, ranks=ALONE, apart: bool = True, name: str = "llava", budget: int = 40):
    """(losses and norms, whole weights, sums over ranks by update) of two updates."""
    torch.manual_seed(0)
    model = MODELS[name]()
    made = sample(model)
    learn = LearnConfig(**MODES[mode])
    if ranks.world == 1:
        learn = learn.model_copy(update={"replicas": 1})
    dummy = made.groups[0][0]
    policy = make_policy(
        model,
        made.codec,
        learn,
        ranks=ranks,
        dummy=dummy,
        apart=apart,
        offload=mode == "offload",
    )
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=0.01)
    examples = [(prompt, row[0].ids) for prompt, row in made.groups]
    log, reduced = [], []
    for tokens in (budget, 1000):  # several micro-batches, and one
        with Reductions() as seen:
            log.append(sft_step(policy, optimizer, examples, tokens_per_batch=tokens))
        reduced.append(seen.count)
    return log, {key: value.clone() for key, value in whole_weights(model)}, reduced


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined(timeout=60) as everyone:
        found = {mode: trained(mode, ranks=everyone) for mode in MODES}
        if everyone.first:
            torch.save(found, Path(sys.argv[1]))
