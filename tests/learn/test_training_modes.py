"""What a run's settings may add to packed rows: checkpointing, bf16, LoRA."""

from __future__ import annotations

import pytest
import torch
from families import MODELS, sample

from sectow_fast.config import LearnConfig
from sectow_fast.learn.policy import make_policy


def loss_and_gradients(policy, groups):
    policy.train()
    policy.zero_grad()
    total = 0.0
    for row, _ in policy.rows(groups, 1000):
        logp, _ = policy(row, ban=False)
        loss = -logp.mean()
        loss.backward()
        total += float(loss.detach())
    found = {
        n: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad.clone()
        for n, p in policy.named_parameters()
        if p.grad is not None
    }
    return total, found


@pytest.fixture(params=["llava", "qwen2_5_vl", "gemma3", "qwen2"])
def plain(request):
    torch.manual_seed(0)
    model = MODELS[request.param]()
    made = sample(model)
    policy = make_policy(model, made.codec, LearnConfig())
    return request.param, made, *loss_and_gradients(policy, made.groups)


def same_model(name):
    torch.manual_seed(0)
    return MODELS[name]()


def test_gradient_checkpointing_changes_nothing(plain):
    name, made, loss, gradients = plain
    policy = make_policy(same_model(name), made.codec, LearnConfig(gradient_checkpointing=True))
    again, found = loss_and_gradients(policy, made.groups)
    assert again == pytest.approx(loss, rel=1e-6) and found.keys() == gradients.keys()
    for key in found:
        torch.testing.assert_close(found[key], gradients[key], atol=1e-6, rtol=1e-5)


def test_bf16_is_as_near_as_bf16_is(plain):
    name, made, loss, gradients = plain
    policy = make_policy(same_model(name), made.codec, LearnConfig(dtype="bfloat16"))
    again, found = loss_and_gradients(policy, made.groups)
    assert again == pytest.approx(loss, rel=2e-2) and again != loss
    flat = [torch.cat([g[k].flatten() for k in gradients]) for g in (found, gradients)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.99
    assert all(g.dtype == torch.float32 for g in found.values())


def test_lora_trains_its_adapters_alone_and_begins_where_the_model_stands(plain):
    name, made, loss, _ = plain
    model = same_model(name)
    policy = make_policy(model, made.codec, LearnConfig(lora_rank=4))
    again, found = loss_and_gradients(policy, made.groups)
    assert again == pytest.approx(loss, rel=1e-6)
    assert found and all("lora_" in key for key in found)
    assert all(p.requires_grad == ("lora_" in n) for n, p in policy.named_parameters())
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=0.02)
    for _ in range(5):
        now, _ = loss_and_gradients(policy, made.groups)
        optimizer.step()
    assert now < loss
