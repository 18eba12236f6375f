"""One whole GRPO step, rollout and update, here and in TRL's GRPOTrainer: same model, same work.

Both get the same 48 prompts (each with a picture, since TRL takes pictures in every row or in
none), 8 completions of up to 8 tokens, fp32, no KL, one on-policy update, learning rate 0 so that
the model stays the same. TRL at its best for this work: the whole batch in one micro-batch, no
checkpointing, no reference model, nothing logged or saved. The steps alternate in one process, so
that what else the machine does hits both.
"""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

import pytest
from record import record

from sectow_fast.config import Config, DefendConfig
from sectow_fast.data.sandbox.stage import SandboxStage
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.learn.grpo import grpo_step
from sectow_fast.learn.optim import make_optimizer
from sectow_fast.types import Case, Group, Reward, Sampling

trl = pytest.importorskip("trl", reason="trl is not installed: pip install -e '.[bench]'")

CONFIG = DefendConfig()
STEPS, WARM = 12, 2


def reward(index: int, live: float) -> float:
    """Of completion `index` of the batch: groups past the live share are all alike."""
    group = index // CONFIG.group_size
    return float(index % 2) if group < live * CONFIG.prompts else 1.0


class Ours:
    def __init__(self, stage: SandboxStage, model: Any, cases: list[Case], live: float) -> None:
        self.codec, self.model, self.live = stage.codec, model, live
        self.cases = cases
        self.engine = TorchEngine(model, stage.codec)
        self.optimizer = make_optimizer(model, 0.0, betas=(0.9, 0.95), weight_decay=0.0)
        self.rows: list[dict[str, float]] = []

    def step(self) -> None:
        begin = time.perf_counter()
        prompts = self.codec.encode(self.cases)
        replies = self.engine.generate(
            prompts,
            n=CONFIG.group_size,
            sampling=Sampling(max_new_tokens=CONFIG.max_new_tokens),
            seed=f"bench/{len(self.rows)}",
        )
        rolled = time.perf_counter()
        groups = [
            Group(
                prompt=prompt,
                completions=tuple(row),
                rewards=tuple(
                    Reward(total=reward(i * len(row) + j, self.live)) for j in range(len(row))
                ),
            )
            for i, (prompt, row) in enumerate(zip(prompts, replies, strict=True))
        ]
        measured = grpo_step(self.model, self.optimizer, groups, codec=self.codec, config=CONFIG)
        end = time.perf_counter()
        assert measured["dead_groups"] == pytest.approx(1 - self.live)
        spent = {"rollout": rolled - begin, "train": end - rolled, "seconds": end - begin}
        self.rows.append(spent | {"tokens": measured["tokens"]})


def trl_trainer(stage: SandboxStage, model: Any, cases: list[Case], live: float, ours: Ours) -> Any:
    """(trainer, its rows); after each of its steps ours takes one."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    rows: list[dict[str, float]] = []
    tokens: list[int] = []

    def score(completion_ids: list[list[int]], **_: Any) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        return [reward(i, live) for i in range(len(completion_ids))]

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.begin = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            rows.append({"seconds": time.perf_counter() - self.begin, "tokens": tokens[-1]})
            ours.step()

    data = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": case.text}],
                "image": stage.world.images.open(case.image or ""),
            }
            for case in cases
        ]
    )
    config = GRPOConfig(
        output_dir="unused",
        per_device_train_batch_size=CONFIG.prompts * CONFIG.group_size,
        num_generations=CONFIG.group_size,
        max_completion_length=CONFIG.max_new_tokens,
        max_steps=STEPS,
        learning_rate=0.0,
        beta=0.0,
        temperature=1.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=score,
        args=config,
        train_dataset=data,
        processing_class=stage.processor,
        callbacks=[Clock()],
    )
    return trainer, rows


def middle(rows: list[dict[str, float]]) -> dict[str, float]:
    """Median of each measure past the warm-up, and tokens a second."""
    warm = rows[WARM:]
    found = {name: statistics.median(row[name] for row in warm) for name in warm[0]}
    return found | {"tokens_per_second": found["tokens"] / found["seconds"]}


def test_step_against_trl(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage = SandboxStage(Config())
    model = stage.defender()
    cases = [case for case in stage.world.train_cases("harmless") if case.image is not None]
    cases = cases[: CONFIG.prompts]
    table = []
    for live in (1.0, 0.25):
        ours = Ours(stage, copy.deepcopy(model), cases, live)
        trainer, theirs = trl_trainer(stage, copy.deepcopy(model), cases, live, ours)
        trainer.train()
        assert len(theirs) == len(ours.rows) == STEPS
        here, there = middle(ours.rows), middle(theirs)
        # The same work: as many completion tokens, but for the few that end early.
        assert here["tokens"] == pytest.approx(there["tokens"], rel=0.1)
        ratio = here["tokens_per_second"] / there["tokens_per_second"]
        table.append({"live_groups": live, "ratio": ratio, "ours": here, "trl": there})
        print(
            f"\nlive groups {live:.0%}: ours {here['seconds']:.3f} s"
            f" (rollout {here['rollout']:.3f}, train {here['train']:.3f}),"
            f" TRL {there['seconds']:.3f} s; {ratio:.2f}x tokens/s"
        )
    record("cpu-step", table, what=__doc__)
