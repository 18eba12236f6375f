"""The same step in TRL's own GRPOTrainer, driven by its own `train()`.

TRL in the fastest uncompiled settings found for this work: one update per rollout on-policy (no old
log-probs), beta 0 (no reference model), no checkpointing, SDPA attention in float32, fused AdamW,
micro-batches of the size that is fastest here, no padding to a multiple, no logging, saving or
progress bar, pictures decoded in memory, and a data set of one epoch, so that its loader is made
once. Its loss is set to ours: token mean over the batch (dapo), clip 0.2 / 0.28, advantages scaled
by the group's standard deviation, gradients clipped at 1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from work import Work

# Completions per forward. Of 16 to 384, 64 and 96 were the fastest on the CPU that bench/results
# names (one thread): all 384 at once took about a tenth longer, 16 about a third.
MICRO_BATCH = 96


class TimedTrainer(GRPOTrainer):
    """TRL's trainer with a clock around its rollout; what it computes is untouched.

    `replies`, where set, are the completions of a step, and TRL then samples none.
    """

    def __init__(self, *args: Any, clock: Callable[[], float], **options: Any) -> None:
        super().__init__(*args, **options)
        self.clock = clock
        self.replies: list[list[int]] | None = None
        self.seconds = {"prepare": 0.0, "rollout": 0.0}
        self.batch: dict[str, Any] = {}

    def _generate_single_turn(self, *args: Any, **options: Any) -> Any:
        begin = self.clock()
        if self.replies is None:
            out = super()._generate_single_turn(*args, **options)
        else:
            out = [list(ids) for ids in self.replies], None
        self.seconds["rollout"] += self.clock() - begin
        return out

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        begin, rolled = self.clock(), self.seconds["rollout"]
        self.batch = super()._generate_and_score_completions(inputs)
        inside = self.seconds["rollout"] - rolled
        self.seconds["prepare"] += self.clock() - begin - inside
        return self.batch


class Between(TrainerCallback):
    """Calls back after every step of TRL's, with its seconds by phase.

    A step lasts from one call to the next, so `train` holds the update and the trainer's own loop.
    """

    def __init__(self, hand_over: Callable[[dict[str, float]], None]) -> None:
        self.hand_over, self.begin = hand_over, 0.0
        self.trainer: TimedTrainer | None = None
        self.gradients: dict[str, torch.Tensor] = {}

    def on_train_begin(self, *args: Any, **options: Any) -> None:
        self.begin = self.trainer.clock()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        if state.global_step == 0:  # in the warm-up: copying costs time
            self.gradients = {
                name: p.grad.clone()
                for name, p in options["model"].named_parameters()
                if p.grad is not None
            }

    def on_step_end(self, *args: Any, **options: Any) -> None:
        step = self.trainer.clock() - self.begin
        seconds = self.trainer.seconds
        self.hand_over({**seconds, "train": step - sum(seconds.values()), "step": step})
        self.trainer.seconds = dict.fromkeys(seconds, 0.0)
        self.begin = self.trainer.clock()


def rows(work: Work, steps: int) -> Dataset:
    """`work`'s prompts once per step; TRL itself repeats each `group_size` times."""
    cases = work.cases
    images = work.pictures()

    def fill(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        chosen = [cases[i] for i in batch["group"]]
        out = {"group": batch["group"]}
        if chosen[0].image:
            out["image"] = [images.open(case.image) for case in chosen]
        if chosen[0].image or work.strings:
            words: list[Any] = [case.text for case in chosen]
        else:
            # TRL makes parts of a text only where there is a picture; most templates want parts.
            words = [[{"type": "text", "text": case.text}] for case in chosen]
        return out | {"prompt": [[{"role": "user", "content": one}] for one in words]}

    numbers = list(range(len(cases))) * steps
    return Dataset.from_dict({"group": numbers}).with_transform(fill)


def make_trainer(
    work: Work,
    model: Any,
    folder: Path,
    hand_over: Callable[[dict[str, float]], None],
    *,
    steps: int,
    micro_batch: int = MICRO_BATCH,
    cpu: bool = True,
) -> tuple[TimedTrainer, Between]:
    """`train()` of the trainer makes `steps` steps, with `hand_over` called after each."""
    codec, ours = work.codec(None), work.config
    micro_batches = max(1, work.completions // micro_batch)

    def reward(completions: list[Any], group: list[int], **_: Any) -> list[float]:
        return [work.reward(one, i % work.group_size) for i, one in enumerate(group)]

    config = GRPOConfig(
        output_dir=str(folder),
        use_cpu=cpu,
        bf16=False,
        per_device_train_batch_size=work.completions // micro_batches,
        gradient_accumulation_steps=micro_batches,
        num_generations=work.group_size,
        max_completion_length=ours.max_new_tokens,
        max_steps=steps,
        temperature=ours.temperature,
        generation_kwargs={"suppress_tokens": list(codec.banned_ids)},
        shuffle_dataset=False,
        beta=0.0,
        loss_type="dapo",
        epsilon=ours.loss.clip_low,
        epsilon_high=ours.loss.clip_high,
        scale_rewards="group",
        learning_rate=0.0,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        adam_beta1=0.9,
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=ours.max_grad_norm,
        gradient_checkpointing=False,
        report_to=[],
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    between = Between(hand_over)
    trainer = TimedTrainer(
        clock=work.clock,
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=rows(work, steps),
        processing_class=work.processor,
        callbacks=[between],
    )
    between.trainer = trainer
    return trainer, between
