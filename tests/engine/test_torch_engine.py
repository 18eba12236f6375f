from __future__ import annotations

import pytest
import torch

from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.types import Sampling


@pytest.fixture
def prompts(stage):
    found = stage.codec.encode(stage.world.train_cases("harmless")[:9])
    assert len({len(p.ids) for p in found}) > 1
    return found


def test_log_probs_are_those_of_a_plain_forward(stage, model, prompts):
    sampling = Sampling(temperature=0.8, max_new_tokens=5)
    groups = TorchEngine(model, stage.codec).generate(prompts, n=3, sampling=sampling, seed="a")
    model.eval()
    for prompt, group in zip(prompts, groups, strict=True):
        for one in group:
            with torch.no_grad():
                logits = model(
                    input_ids=torch.tensor([[*prompt.ids, *one.ids]]),
                    **stage.codec.pixel_inputs([prompt]),
                ).logits[0, len(prompt.ids) - 1 : -1]
            logits[:, list(stage.codec.banned_ids)] = -torch.inf
            wanted = torch.log_softmax(logits / 0.8, -1)[
                torch.arange(len(one.ids)), torch.tensor(one.ids)
            ]
            torch.testing.assert_close(torch.tensor(one.logprobs), wanted, atol=2e-5, rtol=1e-4)


def test_results_do_not_depend_on_the_batch(stage, model, prompts):
    sampling = Sampling(max_new_tokens=5)
    whole = TorchEngine(model, stage.codec).generate(prompts, n=2, sampling=sampling, seed="b")
    cut = TorchEngine(model, stage.codec, batch=4).generate(
        prompts, n=2, sampling=sampling, seed="b"
    )
    assert [[one.ids for one in g] for g in whole] == [[one.ids for one in g] for g in cut]


def test_samples_of_a_group_differ_and_seeds_matter(stage, model, prompts):
    engine, sampling = TorchEngine(model, stage.codec), Sampling(max_new_tokens=6)
    first = engine.generate(prompts, n=8, sampling=sampling, seed="c")
    assert all(len({one.ids for one in group}) > 4 for group in first)
    assert first == engine.generate(prompts, n=8, sampling=sampling, seed="c")
    assert first != engine.generate(prompts, n=8, sampling=sampling, seed="d")


def test_greedy_is_transformers_generate(stage, model, prompts):
    engine = TorchEngine(model, stage.codec)
    done = engine.generate(
        prompts, n=1, sampling=Sampling(temperature=0.0, max_new_tokens=5), seed=""
    )
    model.eval()
    for prompt, (one,) in zip(prompts, done, strict=True):
        out = model.generate(
            input_ids=torch.tensor([prompt.ids]),
            attention_mask=torch.ones(1, len(prompt.ids), dtype=torch.long),
            **stage.codec.pixel_inputs([prompt]),
            do_sample=False,
            max_new_tokens=5,
            eos_token_id=stage.codec.eos_id,
            pad_token_id=stage.codec.pad_id,
            suppress_tokens=list(stage.codec.banned_ids),
        )
        assert tuple(out[0, len(prompt.ids) :].tolist()) == one.ids


def test_finish_reasons_banned_tokens_and_versions(stage, model, prompts):
    engine = TorchEngine(model, stage.codec)
    engine.sync(model)
    groups = engine.generate(prompts, n=8, sampling=Sampling(max_new_tokens=40), seed="e")
    for one in (one for group in groups for one in group):
        assert (one.finish_reason == "stop") == (one.ids[-1] == stage.codec.eos_id)
        assert stage.codec.eos_id not in one.ids[:-1] and len(one.ids) <= 40
        assert not set(one.ids) & set(stage.codec.banned_ids)
        assert one.weight_version == 1
    with pytest.raises(ValueError, match="made with"):
        engine.sync(torch.nn.Linear(1, 1))
