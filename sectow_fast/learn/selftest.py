"""At start-up: one packed row against the model's own separate forwards. A mismatch stops the run.

We lay out positions, masks and image features ourselves. If another version of transformers changed
the layout of a class, training would silently be wrong. This test finds it, for a few forwards.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from sectow_fast.learn.packing import IGNORE, rank_rows
from sectow_fast.learn.policy import Policy
from sectow_fast.types import Completion, Prompt, UserError

SIZES = (3, 1, 6)  # completions' lengths
# The largest difference that another order of the same sums can make in a log-prob, by dtype.
BOUND = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.05}


def check_packing(
    policy: Policy, prompts: Sequence[Prompt], dtype: torch.dtype = torch.float32
) -> float:
    """Largest difference of a completion's log-probs between a packed row and the model's own
    forward of each sequence. prompts: with an image, with several, with none. dtype: of its matrix
    products.

    UserError where it is over the bound of the dtype, or a value is not finite.
    """
    rng = random.Random("self-test")
    words = sorted(set(range(policy.model.lm_head.weight.shape[0])) - set(policy.codec.banned_ids))
    groups = []
    for prompt in prompts:
        done = []
        for size in SIZES:
            ids = tuple(rng.choice(words) for _ in range(size))
            done.append(Completion(ids=ids, logprobs=(0.0,) * size, finish_reason="length"))
        groups.append((prompt, done))
    training = policy.model.training
    policy.eval()
    worst, where = -1.0, ""
    longest = sum(len(p.ids) + sum(SIZES) for p in prompts)
    with torch.no_grad():
        ((row, _),) = rank_rows(groups, longest, codec=policy.codec, family=policy.family)
        packed, _ = policy(row)
        at = 0
        for prompt, done in groups:
            for number, one in enumerate(done):
                alone = policy.own_logprobs(prompt, one.ids)
                gap = (packed[at : at + len(one.ids)] - alone).abs().max()
                at += len(one.ids)
                # NaN compares false with everything, but it is the worst value.
                if not float(gap) <= worst:
                    worst, where = float(gap), f"case {prompt.case_id!r}, completion {number}"
    policy.train(training)
    policy.tower.forget()
    if not worst <= BOUND[dtype]:
        raise UserError(
            f"self-test of packed rows: found log-probs of {type(policy.model).__name__} that"
            f" differ by {worst:.3g} from its own forward ({where}; attention {policy.backend},"
            f" {dtype}), expected <= {BOUND[dtype]:g}; this version of transformers may lay the"
            " class out differently: train with the pinned one (constraints.txt)"
        )
    return worst


def rollout_gaps(
    policy: Policy, rows: Sequence[tuple[Prompt, Completion]], temperature: float
) -> torch.Tensor:
    """|the policy's log-prob - the rollout's| of every token of this rank's share of the rows.

    All ranks must come with the same rows, since each forward gathers sharded weights.
    """
    longest = max(len(prompt.ids) + len(one.ids) for prompt, one in rows)
    training = policy.model.training
    policy.eval()
    found = []
    with torch.no_grad():
        for row, _ in policy.rows([(prompt, [one]) for prompt, one in rows], longest):
            logp, _ = policy(row, temperature=temperature)
            found.append((logp.float().cpu() - row.rollout_logp)[row.labels != IGNORE].abs())
    policy.train(training)
    return torch.cat(found)
