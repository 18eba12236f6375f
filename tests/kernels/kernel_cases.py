"""Inputs that several tests share, and the tolerance rule."""

from __future__ import annotations

import torch

OPTIONS = [
    {},
    {"clip_low": 0.1, "clip_high": 0.5, "dual_clip": 1.5},
    {"kl_coef": 0.3, "kl": "k1"},
    {"kl_coef": 0.3, "kl": "k2", "tis_cap": 1.1},
    {"kl_coef": 0.3, "kl": "k3", "entropy_coef": 0.2},
    {"ratio": "cispo", "entropy_coef": 0.1},
    {"ratio": "sequence", "reduction": "seq-mean"},
    {"reduction": "seq-mean", "tis_cap": 2.0},
    {"reduction": "seq-sum", "kl_coef": 0.1, "kl": "k3"},
    {"band_low": 0.9, "band_high": 1.2, "kl_coef": 0.1, "entropy_coef": 0.2},
    {"band_high": 1.05, "ratio": "sequence", "reduction": "seq-mean", "tis_cap": 1.01},
    {"band_low": 0.9, "ratio": "cispo"},
    {"kl_coef": 0.3, "kl_unbiased": True},
    {"ratio": "sequence", "reduction": "seq-mean", "kl_coef": 0.3, "kl_unbiased": True},
    {"ratio": "cispo", "kl_coef": 0.3, "kl": "k2", "kl_unbiased": True, "tis_cap": 1.5},
    {"ratio": "sapo", "sapo_pos": 0.8, "sapo_neg": 1.3},
    {"ratio": "sapo", "reduction": "seq-mean", "kl_coef": 0.2, "kl_unbiased": True},
]
GRADIENTS = ("hidden", "weight", "bias")


def head_case(count=17, width=8, vocabulary=100, seed=0) -> dict[str, torch.Tensor]:
    """float64; labels hold a -100, advantages an exact 0, and the ratios cross the clip range."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    hidden, weight, bias = normal(count, width), normal(vocabulary, width) / 2, normal(vocabulary)
    labels = torch.randint(0, vocabulary, (count,), generator=generator)
    advantages = normal(count)
    logp = (hidden @ weight.T + bias).log_softmax(-1).gather(1, labels[:, None])[:, 0]
    if count > 8:
        labels[3] = -100
        advantages[7] = 0.0
    return {
        **{"hidden": hidden, "weight": weight, "bias": bias},
        **{"labels": labels, "advantages": advantages, "old_logp": logp + 0.3 * normal(count)},
        "ref_logp": logp + 0.3 * normal(count),
        "rollout_logp": logp + 0.3 * normal(count),
        "sequence_ids": torch.arange(count) // 4,
        "mask": torch.arange(count) % 5 != 0,
    }


def in_dtype(case: dict, dtype: torch.dtype) -> dict:
    """The same numbers, rounded to dtype, as leaves that want a gradient where a head's do."""
    made = {k: v.to(dtype) if v.is_floating_point() else v for k, v in case.items()}
    return {k: v.clone().requires_grad_(k in GRADIENTS) for k, v in made.items()}


def gradients(case: dict) -> list[torch.Tensor]:
    return [case[name].grad for name in GRADIENTS if name in case]


def within_twice(ours, plain, truth, epsilon) -> None:
    """Ours is off the truth by no more than twice what plain torch in the same dtype is."""
    for a, b, c in zip(ours, plain, truth, strict=True):
        bound = 2 * (b.double() - c).abs().max().item() if b.numel() else 0.0
        error = (a.double() - c).abs().max().item() if a.numel() else 0.0
        scale = c.abs().max().item() if c.numel() else 0.0
        assert error <= bound + epsilon * (1 + scale), (error, bound, scale)


def one_chunk(logits: torch.Tensor, labels: torch.Tensor):
    """(batch, chunk) of rows whose advantages and weights are 1, as `score_rows` takes them."""
    from sectow_fast.kernels.head_chunks import Chunk
    from sectow_fast.kernels.head_form import HeadForm
    from sectow_fast.kernels.loss_batch import LossBatch
    from sectow_fast.kernels.loss_terms import RowResults, TokenInputs

    from sectow_fast.kernels import PolicyLossConfig

    count = len(labels)
    one, every = torch.ones(count), slice(0, count)
    batch = LossBatch(
        labels=labels,
        inputs=TokenInputs(advantages=one, old_logp=None, ref_logp=None, rollout_logp=None),
        weights=one,
        scored=one.bool(),
        form=HeadForm(whole=logits.shape[1]),
        config=PolicyLossConfig(),
        group=None,
        gradient=True,
        results=RowResults(*torch.zeros(5, count)),
    )
    return batch, Chunk(rows=every, place=every, states=logits[:, :0], logits=logits)


def operator_calls(device: str):
    """(operator, arguments, named arguments) of every registered operator, for opcheck."""
    from sectow_fast.kernels import (
        PolicyLossConfig,
        advantage,
        head,
        head_ops,
        linear_loss_op,
        logprob,
        loss,
    )

    case = in_dtype(head_case(), torch.float32)
    case = {k: v.detach().to(device).requires_grad_(v.requires_grad) for k, v in case.items()}
    config = PolicyLossConfig(kl_coef=0.1, entropy_coef=0.1)
    labels, advantages = case["labels"], case["advantages"]
    given = (advantages, case["old_logp"], case["ref_logp"], None, case["mask"])
    given = (*given, case["sequence_ids"], None)
    scalars = config.scalars()
    heads = case["hidden"], case["weight"], case["bias"]
    logits = torch.randn(17, 100, device=device, requires_grad=True)
    logp, entropy = (torch.randn(17, device=device, requires_grad=True) for _ in range(2))
    rows = torch.rand(5, 17, device=device) + 0.5
    yield logprob.selective_logprob_op, (logits, labels, 0.7, -100), {}
    for g_entropy in (rows[1], None):
        backward = (rows[0], g_entropy, logits.detach(), labels, *rows[2:], 0.7, -100)
        yield logprob.selective_logprob_backward_op, backward, {}
    temperatures = torch.rand(17, device=device) + 0.5
    some = torch.tensor([one for one in range(17) if one != 3], device=device)
    options = {"softcap": None, "scale": 1.0, "ignore_index": -100, "chunk": 5, "group": None}
    options |= {"logits_dtype": None, "temperature": 0.7}
    for mode in head.MODES:
        trained = mode != "frozen"
        fixed = [one.detach().requires_grad_(trained) for one in heads[1:]]
        for extra in ((None, None, None), (temperatures, some, None)):
            more = options | {"mode": mode, "with_entropy": extra[0] is None, "bound": None}
            yield head_ops.linear_logprob_op, (heads[0], *fixed, labels, *extra), more
    detached = [one.detach() for one in heads]
    total = torch.zeros(100, 8, device=device)
    kept = (rows[0, :0], torch.arange(17, device=device), torch.tensor(2 * 16 + 1))
    for more, sum_of in ((None, None), (temperatures, total)):
        backward = (*rows[:2], *detached, labels, *rows[2:], *kept, more, sum_of)
        yield head_ops.linear_logprob_backward_op, backward, options | {"wanted": [True] * 3}
    yield loss.policy_loss_op, (logp, entropy, *given), scalars
    for ratio in ("token", "sequence"):
        none = PolicyLossConfig(ratio=ratio, reduction="none").scalars()
        yield loss.policy_loss_op, (logp, entropy, *given), none
    del options["ignore_index"]
    for more in ((None, None, None), (temperatures, some, None)):
        head_scalars = options | {"bound": None, "wanted": [True] * 3}
        arguments = (*heads, labels, *given, *more)
        yield linear_loss_op.linear_policy_loss_op, arguments, scalars | head_scalars
    grouped = (advantages, case["sequence_ids"], 0, "loo", "std", 1, 1e-4)
    yield advantage.group_advantage_op, grouped, {}
