"""Advantages, rollouts that TRL weighs or masks (vLLM's log-probs, environment tokens), and LoRA,
in the real TRL: the same with us."""

from __future__ import annotations

import random

import pytest
import torch
from host_trl import SIZE, Drawn, assert_three_ways, make, reward
from peft import LoraConfig

from sectow_fast.kernels import group_advantage


class Scored(Drawn):
    """Keeps what TRL made of a rollout's rewards."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.scored = []

    def _generate_and_score_completions(self, inputs):
        made = super()._generate_and_score_completions(inputs)
        texts = [ids[on.bool()].tolist() for ids, on in rows_of(made)]
        rewards = reward(texts, [one["group"] for one in inputs])
        self.scored.append((torch.tensor(rewards), made["advantages"]))
        return made


def rows_of(made):
    return zip(made["completion_ids"], made["completion_mask"], strict=True)


@pytest.mark.parametrize("theirs, ours", [("group", "std"), ("none", "none")])
def test_trls_advantages_are_group_advantages(stage, tmp_path, theirs, ours):
    trainer, _ = make(stage, tmp_path, kind=Scored, scale_rewards=theirs)
    trainer.train()
    assert len(trainer.scored) == 4
    for rewards, advantages in trainer.scored:
        found, signal = group_advantage(rewards, group_size=SIZE, scale=ours, eps=1e-4)
        torch.testing.assert_close(found, advantages, rtol=1e-5, atol=1e-6)
        assert signal.view(-1, SIZE).any(1).tolist() == [True, True, True, False]


class Sampled(Drawn):
    """As if vLLM had drawn: log-probs a little off, so that TRL corrects by its own code."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.use_vllm = True  # set late: at the start it would look for a vLLM server

    def _generate_single_turn(self, prompt_ids, *args, **options):
        rng = random.Random(100 + self.rollouts)
        rows, _ = super()._generate_single_turn(prompt_ids, *args, **options)
        return rows, [
            [found + rng.uniform(-0.5, 0.5) for found in self.logprobs(prompt, row)]
            for prompt, row in zip(prompt_ids, rows, strict=True)
        ]

    @torch.no_grad()
    def logprobs(self, prompt, row):
        logits = self.model(torch.tensor([prompt + row])).logits[0, -len(row) - 1 : -1]
        scores = (logits / self.temperature).log_softmax(-1)
        return scores.gather(1, torch.tensor(row)[:, None])[:, 0].tolist()


@pytest.mark.parametrize(
    "mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
)
def test_vllms_importance_ratios_are_trls_own(stage, tmp_path, mode):
    rows, _ = assert_three_ways(
        *(stage, tmp_path),
        kind=Sampled,
        learning_rate=0.1,
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_max=1.3,
        num_iterations=2,
        **{"epsilon": 0.02, "epsilon_high": 0.02},
        # Tokens of ratio 0 have no gradient and are left out, so the clip shares miss them.
        apart=("entropy", "clip_ratio") if mode.endswith("mask") else "entropy",
    )
    # Logged by the steps that had a rollout of their own.
    ratios = [
        {end: row[f"sampling/importance_sampling_ratio/{end}"] for end in ("min", "max")}
        for row in rows
        if "sampling/importance_sampling_ratio/min" in row
    ]
    least, most = min(one["min"] for one in ratios), max(one["max"] for one in ratios)
    assert least < 0.9 and 1.01 < most <= 1.3
    assert (least == 0) == mode.endswith("mask")


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_an_environments_tokens_are_left_out_as_trl_leaves_them_out(stage, tmp_path, level):
    def rollout(prompts, trainer):
        ids, rows = trainer.drawn(prompts)
        masks = [[int(i % 3 != 1) for i in range(len(row))] for row in rows]
        masks[1] = [0] * len(rows[1])  # no live token
        return {"prompt_ids": ids, "completion_ids": rows, "logprobs": None, "env_mask": masks}

    rows, _ = assert_three_ways(
        *(stage, tmp_path),
        given={"rollout_func": rollout},
        learning_rate=0.1,
        importance_sampling_level=level,
        num_iterations=2,
        loss_type="grpo",
    )
    assert any(row["clip_ratio/region_mean"] > 0 for row in rows)


@pytest.mark.parametrize("options", [{}, {"beta": 0.1}, {"num_iterations": 2, "epsilon": 0.01}])
def test_lora_trains_as_in_trl(stage, tmp_path, options):
    modules = ["q_proj", "v_proj", "down_proj"]
    adapters = LoraConfig(r=4, init_lora_weights=False, target_modules=modules)
    given = {"peft_config": adapters}
    assert_three_ways(stage, tmp_path, given=given, learning_rate=0.1, **options)
