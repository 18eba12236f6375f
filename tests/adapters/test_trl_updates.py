"""Several updates per batch (`num_iterations`) by our own trainer are those of TRL's trainer."""

from __future__ import annotations

from statistics import fmean
from types import SimpleNamespace

import pytest
import torch
from host_trl import SIZE, TOKENS, Drawn, make, reward, text_model, weights_of

from sectow_fast.config import GRPOConfig
from sectow_fast.engine.reference import plain_logprobs
from sectow_fast.learn.grpo import grpo_step
from sectow_fast.learn.policy import Policy
from sectow_fast.types import Completion, Group, Prompt, Reward

RATE, TEMPERATURE, CLIP = 0.5, 0.9, 0.02
CODEC = SimpleNamespace(
    pad_id=0, end_ids=(), image_id=None, banned_ids=(), pixel_inputs=lambda prompts: {},
    prefetch=lambda prompts: None,
)  # fmt: skip


class Kept(Drawn):
    """Keeps the one batch that all updates are made from."""

    def _generate_and_score_completions(self, inputs):
        self.groups = [one["group"] for one in inputs]
        self.batch = super()._generate_and_score_completions(inputs)
        return self.batch


def groups_of(trainer, model) -> list[Group]:
    """TRL's batch as ours; the engine's log-probs are those of the weights before the updates."""
    batch = trainer.batch
    prompts, completions = (
        [
            row[mask.bool()].tolist()
            for row, mask in zip(batch[f"{kind}_ids"], batch[f"{kind}_mask"], strict=True)
        ]
        for kind in ("prompt", "completion")
    )
    rewards = reward(completions, trainer.groups)
    groups = []
    for at in range(0, len(rewards), SIZE):
        prompt = Prompt(case_id=str(at), ids=tuple(prompts[at]))
        done = completions[at : at + SIZE]
        logprobs = [plain_logprobs(model, CODEC, prompt, one, TEMPERATURE).tolist() for one in done]
        groups.append(
            Group(
                prompt=prompt,
                completions=tuple(
                    Completion(ids=tuple(one), logprobs=tuple(logp), finish_reason="stop")
                    for one, logp in zip(done, logprobs, strict=True)
                ),
                rewards=tuple(Reward(total=one) for one in rewards[at : at + SIZE]),
            )
        )
    return groups


@pytest.mark.parametrize("updates", [2, 4])
def test_updates_on_one_batch_are_trls(stage, tmp_path, updates):
    trainer, norms = make(
        stage,
        tmp_path,
        kind=Kept,
        steps=updates,
        num_iterations=updates,
        per_device_train_batch_size=4 * SIZE,
        gradient_accumulation_steps=1,
        loss_type="dapo",
        scale_rewards="none",
        epsilon=CLIP,
        epsilon_high=CLIP,
        learning_rate=RATE,
        temperature=TEMPERATURE,
    )
    before = weights_of(trainer)
    trainer.train()
    model = text_model(len(stage.processor.tokenizer))
    model.load_state_dict(before, strict=False)  # the head is tied
    model.tie_weights()
    config = GRPOConfig(
        group_size=SIZE,
        num_iterations=updates,
        max_new_tokens=TOKENS,
        temperature=TEMPERATURE,
        scale="none",
        tokens_per_batch=64,  # several rows, whose gradients add up to TRL's batch
        loss={"clip_low": CLIP, "clip_high": CLIP, "reduction": "token-mean"},
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    found = grpo_step(Policy(model, CODEC), optimizer, groups_of(trainer, model), config=config)
    logged = [row for row in norms.rows if "grad_norm" in row]
    assert len(logged) == updates and found["tokens_trained"] > 0
    assert found["grad_norm"] == pytest.approx(fmean(one["grad_norm"] for one in logged), rel=1e-3)
    # TRL rounds what it logs to four digits.
    assert found["loss"] == pytest.approx(fmean(one["loss"] for one in logged), abs=1e-4)
    clipped = fmean(one["clip_ratio/region_mean"] for one in logged)
    assert found["clip_low"] + found["clip_high"] > 0.02 and clipped > 0.01  # clipping acts
    after = dict(model.named_parameters())
    for name, value in weights_of(trainer).items():
        torch.testing.assert_close(after[name], value, atol=2e-5, rtol=1e-3, msg=name)
        assert not torch.equal(value, before[name]), name
