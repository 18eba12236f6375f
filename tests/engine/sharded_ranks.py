"""What `test_sharded_ranks.py` starts on two ranks: engines of sharded weights, one of which dies.

torchrun sharded_ranks.py OUT SCENARIO
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tiny_process import Table, TinyCodec, made_engine
from torch.distributed.fsdp import fully_shard

from sectow_fast.engine.ranked_engine import RankedEngine
from sectow_fast.learn.ranks import joined
from sectow_fast.types import Prompt, Sampling, UserError

PROMPTS = [Prompt(case_id=str(i), ids=(2 + i % 14, 3)) for i in range(12)]
SAMPLING = Sampling(max_new_tokens=4)


def main(ranks, out: Path, scenario: str) -> None:
    model = Table()
    fully_shard(model)

    def gaps(rows, temperature):
        """By the sharded model's own forward: all ranks gather its weights."""
        found = []
        for prompt, one in rows:
            logits = model(torch.tensor([[*prompt.ids, *one.ids]])).logits[0].detach()
            logits[:, 0] = -torch.inf
            logp = torch.log_softmax(logits[len(prompt.ids) - 1 : -1] / temperature, -1)
            ours = logp.gather(1, torch.tensor(one.ids)[:, None])[:, 0]
            found.append((ours - torch.tensor(one.logprobs)).abs())
        return torch.cat(found)

    struck = ranks.rank == 1
    dies = struck and scenario in ("dies", "wrong")
    mine = made_engine(model, TinyCodec(), lives=[{"die_at": 7}] if dies else [], gaps=gaps)
    right = mine._weights_of
    if struck and scenario == "wrong":
        mine._weights_of = lambda model: {n: 3 * value for n, value in right(model).items()}
    engine = RankedEngine(mine, ranks, whole=lambda model: [])
    engine.sync(model)
    log: dict[str, Any] = {"ids": []}
    if scenario == "sound":  # one prompt: nothing is known of the second rank's engine then
        engine.generate(PROMPTS[:1], n=1, sampling=SAMPLING, seed="few")
        log["unproven after one prompt"] = mine.server.unproven
    try:
        for step in range(3):
            # Step 1 has the weights of step 0, so no rank has to bring them anywhere.
            if step == 1 and struck and scenario == "idle":
                mine.server.process.kill()
            if step == 2:
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.mul_(0.5)
                engine.sync(model)
            drawn = engine.generate(PROMPTS, n=2, sampling=SAMPLING, seed=f"s{step}")
            log["ids"].append([one.ids for group in drawn for one in group])
    except UserError as error:
        log["error"] = str(error)
    if scenario == "late":
        # Proven; then its engine is replaced for a step in which it draws nothing.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-1.0)
        engine.sync(model)
        if struck:
            mine.server.process.kill()
        engine.generate(PROMPTS[:1], n=1, sampling=SAMPLING, seed="one")
    log |= {"counts": mine.server.counts, "unproven": mine.server.unproven}
    (out / f"{scenario}-{ranks.rank}.json").write_text(json.dumps(log))


if __name__ == "__main__":
    with joined(timeout=60) as everyone:
        for name in sys.argv[2:]:
            main(everyone, Path(sys.argv[1]), name)
