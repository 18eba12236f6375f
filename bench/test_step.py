"""One GRPO step of ours on the sandbox, by phase. `pytest bench/`.

Groups of 8 on the default tiny LLaVA, untrained, completions of full length (see work.py). With 12
of 48 groups live, the others (all rewards equal) never reach the forward.
"""

from __future__ import annotations

import pytest
from ours import OurStep, grouped
from work import Work


@pytest.fixture(scope="module")
def step(stage):
    return OurStep(Work(stage=stage), stage.defender())


def test_rollout(benchmark, step):
    replies = benchmark(step.rollout)
    assert sum(len(one.ids) for row in replies for one in row) == step.work.tokens
    benchmark.extra_info["tokens_per_second"] = step.work.tokens / benchmark.stats["median"]


@pytest.mark.parametrize("live", [1.0, 0.25])
def test_train(benchmark, step, stage, live):
    work = Work(stage=stage, live=live)
    benchmark(step.train, grouped(work, step.prompts, step.rollout()))
    assert step.metrics["dead_groups"] == 1 - live
    benchmark.extra_info["tokens_per_second"] = work.tokens / benchmark.stats["median"]
