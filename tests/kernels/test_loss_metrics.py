"""Each of the eight metrics, by both operators and both paths, against a loop over the tokens."""

from __future__ import annotations

import math

import pytest
import torch
from kernel_cases import head_case, in_dtype
from sectow_fast.kernels.loss_metrics import METRICS

from sectow_fast.kernels import PolicyLossConfig, linear_policy_loss, policy_loss

# Clips of two widths, so that the two shares cannot be taken for each other; k1, so that the mean
# of the KL estimate is a sum of plain differences.
CONFIG = PolicyLossConfig(clip_low=0.05, clip_high=0.3, kl_coef=0.1, kl="k1")


def by_hand(case, logp, entropy, live):
    """The metrics of float64 [N] log-probs and entropies, and a list of the live rows."""
    rows = [
        (
            math.exp(logp[i] - case["old_logp"][i]),
            float(logp[i] - case["ref_logp"][i]),
            float(case["advantages"][i]),
            float(entropy[i]),
        )
        for i in live
    ]
    ratios = [ratio for ratio, *_ in rows]
    return {
        "ratio_mean": sum(ratios) / len(rows),
        "ratio_max": max(ratios),
        "ratio_min": min(ratios),
        "clip_low": sum(r < 0.95 and a < 0 for r, _, a, _ in rows) / len(rows),
        "clip_high": sum(r > 1.3 and a > 0 for r, _, a, _ in rows) / len(rows),
        "kl": sum(kl for _, kl, *_ in rows) / len(rows),
        "entropy": sum(h for *_, h in rows) / len(rows),
        "live": len(rows),
    }


def told(metrics):
    return {name: float(metrics[name]) for name in METRICS}


@pytest.fixture(scope="module")
def rows():
    """A case, its log-probs and entropies by plain float64, and its live rows."""
    case = head_case(40)
    logits = case["hidden"] @ case["weight"].T + case["bias"]
    every = logits.log_softmax(-1)
    label = case["labels"].clamp(min=0)
    logp = every.gather(1, label[:, None])[:, 0]
    entropy = -(every.exp() * every).sum(1)
    live = [i for i in range(40) if case["mask"][i] and case["labels"][i] != -100]
    wanted = by_hand(case, logp, entropy, live)
    assert wanted["clip_low"] != wanted["clip_high"] and min(wanted.values()) != 0
    return case, logp, entropy, wanted


def test_metrics_of_policy_loss(path, rows):
    case, logp, entropy, wanted = rows
    given = {name: case[name].float() for name in ("advantages", "old_logp", "ref_logp")}
    mask = case["mask"] & (case["labels"] != -100)
    _, found = policy_loss(logp.float(), entropy=entropy.float(), mask=mask, config=CONFIG, **given)
    assert told(found) == pytest.approx(wanted, rel=1e-5)


def test_metrics_of_linear_policy_loss(path, rows):
    case, *_, wanted = rows
    given = {k: v for k, v in case.items() if k not in ("rollout_logp", "sequence_ids")}
    _, found = linear_policy_loss(**in_dtype(given, torch.float32), config=CONFIG)
    assert told(found) == pytest.approx(wanted, rel=1e-4)
