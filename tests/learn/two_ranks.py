"""What `test_ranks.py` starts on one rank and on two: updates of each kind, then a checkpoint.

python two_ranks.py OUT [RESUME]; or by torchrun.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from sectow_fast.config import Config, GRPOConfig, LearnConfig, SandboxConfig
from sectow_fast.data.sandbox.stage import SandboxStage
from sectow_fast.engine.ranked_engine import RankedEngine
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.learn import checkpoint
from sectow_fast.learn.grpo import grpo_step
from sectow_fast.learn.learners import GRPOLearner
from sectow_fast.learn.optim import make_optimizer
from sectow_fast.learn.phase import scored_groups
from sectow_fast.learn.policy import make_policy
from sectow_fast.learn.ranks import joined
from sectow_fast.learn.selftest import rollout_gaps
from sectow_fast.learn.sft import sft_step
from sectow_fast.learn.sharding import whole_weights
from sectow_fast.types import Reward, Sampling, Scores, UserError


def reward(ranks, i, j):
    """As a plugin's reward term that answers each rank otherwise: the first rank's must count."""
    return Reward(total=float((i + j) % 3 if ranks.first else (i * j) % 2))


def main(ranks, out: Path, resume: Path | None) -> None:
    torch.set_num_threads(1)
    stage = SandboxStage(Config(sandbox=SandboxConfig(suite_size=20, picture_variants=2)))
    model, copy = stage.defender(), stage.defender()
    cases = stage.world.train_cases("harmless")
    pictures = [case for case in cases if case.image][:4]
    text = [case for case in cases if not case.image][:3]
    dummy = stage.codec.encode(pictures[:1])[0]
    policy = make_policy(model, stage.codec, LearnConfig(), ranks=ranks, dummy=dummy)
    engine = RankedEngine(TorchEngine(copy, stage.codec), ranks, whole=whole_weights)
    optimizer = make_optimizer(model, 1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    for group in optimizer.param_groups:
        # AdamW's default eps would make full steps of gradients that are only rounding errors.
        group["eps"] = 1e-3
    if resume:
        saved = checkpoint.load(resume, ranks=ranks)
        saved.fill("model", model.state_dict())
        saved.fill_optimizer(optimizer, model)
    engine.sync(model)
    # A budget under the batch makes rows whose number differs between ranks.
    config = GRPOConfig(group_size=3, max_new_tokens=5, tokens_per_batch=70)
    log = []
    for step, drawn in enumerate([pictures + text, text, text[:1] + pictures[:1]]):
        prompts = stage.codec.encode(drawn)
        sampling = Sampling(max_new_tokens=5)
        replies = engine.generate(prompts, n=3, sampling=sampling, seed=f"ranks/{step}")
        learner = GRPOLearner(policy=policy, optimizer=optimizer, config=config)
        mine = tuple(tuple(reward(ranks, i, j) for j in range(3)) for i in range(len(prompts)))
        told = learner.agreed(Scores(rewards=mine, measures={"stop": float(ranks.rank)}))
        assert told.measures == {"stop": 0.0}  # so that a monitor stops all of them or none
        groups = scored_groups(prompts, replies, told)
        ids = [one.ids for row in replies for one in row]
        pairs = [(prompt, row[0].ids) for prompt, row in zip(prompts, replies, strict=True)]
        rows = [(prompt, row[0]) for prompt, row in zip(prompts, replies, strict=True)]
        gaps = torch.cat(ranks.gathered(rollout_gaps(policy, rows, 1.0))).tolist()
        log.append(
            {"ids": ids, "gaps": gaps, "grpo": grpo_step(policy, optimizer, groups, config=config)}
        )
        log[-1]["sft"] = sft_step(policy, optimizer, pairs, tokens_per_batch=70)
        engine.sync(model)
    if ranks.world > 1:
        try:  # pairs that differ by rank would be another number of rows: nobody may begin
            policy.rows([(pairs[0][0], replies[0])] * (1 + ranks.rank), 70)
        except UserError as error:
            assert "rank 1" in str(error)
        else:
            raise AssertionError("rows that differ by rank were laid out")
    tensors = {
        "model": model.state_dict(),
        "optimizer": checkpoint.optimizer_tensors(optimizer, model),
    }
    checkpoints = checkpoint.Checkpoints(out, ranks)
    checkpoints.save(tensors=tensors, state={"log": log})
    checkpoints.wait()


if __name__ == "__main__":
    with joined(timeout=60) as everyone:
        main(everyone, Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
