"""Packed rows against the models' own forwards of each sequence."""

from __future__ import annotations

import torch

from sectow_fast.learn.packing import rank_rows
from sectow_fast.learn.policy import Policy


def separate_logp(model, codec, prompt, one):
    """Log-probs of one completion by the model's own forward: its positions, masks and head."""
    ids = torch.tensor([[*prompt.ids, *one.ids]])
    logits = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        use_cache=False,
        **codec.family.own_inputs(ids),
        **codec.family.model_inputs(codec.pixel_inputs([prompt])),
    ).logits[0, len(prompt.ids) - 1 : -1]
    return torch.log_softmax(logits.float(), -1).gather(-1, torch.tensor(one.ids)[:, None])[:, 0]


def gradients(model):
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def check_rows(model, made, budget):
    """Log-probs and every parameter's gradient of packed rows against those of one forward for each
    completion. Returns the largest difference of a log-prob, and of a gradient as a share of the
    largest of its parameter."""
    policy = Policy(model, made.codec)
    weights = iter(torch.randn(100, generator=torch.Generator().manual_seed(1)))
    weight = {
        (i, j): torch.stack([next(weights) for _ in one.ids])
        for i, (_, done) in enumerate(made.groups)
        for j, one in enumerate(done)
    }
    model.train()
    packed = {}
    for row, pieces in rank_rows(made.groups, budget, codec=made.codec, family=policy.family):
        assert row.tokens <= budget
        logp, _ = policy(row, ban=False)
        names = [(p.group, j) for p in pieces for j in p.picked]
        parts = [logp[row.owner == number] for number in range(len(names))]
        packed |= dict(zip(names, parts, strict=True))
        sum((weight[n] * part).sum() for n, part in zip(names, parts, strict=True)).backward()
    ours = gradients(model)
    assert packed.keys() == weight.keys()
    gaps = []
    for i, (prompt, done) in enumerate(made.groups):
        for j, one in enumerate(done):
            alone = separate_logp(model, made.codec, prompt, one)
            torch.testing.assert_close(packed[i, j], alone, atol=2e-5, rtol=1e-4)
            gaps.append(float((packed[i, j] - alone).detach().abs().max()))
            (alone * weight[i, j]).sum().backward()
    theirs = gradients(model)
    assert ours.keys() == theirs.keys()
    assert sum(float(g.square().sum()) for g in ours.values()) > 1e-3
    slopes = []
    for name in ours:
        scale = theirs[name].abs().max().clamp(min=1e-3)
        torch.testing.assert_close(
            ours[name] / scale, theirs[name] / scale, atol=1e-4, rtol=1e-3, msg=name
        )
        slopes.append(float(((ours[name] - theirs[name]) / scale).abs().max()))
    return max(gaps), max(slopes)
