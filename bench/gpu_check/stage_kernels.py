"""Stage 3: the policy loss beside its peers and its floor, and the small kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from kernel_contenders import CONTENDERS, Scene, compiled

from bench.gpu_check.check import Check, Row, judged, short
from bench.gpu_check.device import Device
from sectow_fast.kernels import advantage, group_advantage, loss_oracle, policy_loss

DEAD = ("none", "masked", "zero")
OURS = ("ours", "linear_policy_loss", "linear_logprob + policy_loss")
FLOOR, TRUTH = "floor: three products", "torch eager"
NEAR = 0.999  # the least cosine between our gradient and plain torch's that is called the same
# It computes in IEEE float32, so without tensor cores, and takes long: one scene tells enough.
ONCE = "Liger fused-linear GRPO"


def run(check: Check) -> Iterator[Row]:
    """Every contender on every scene, the floor and plain torch first; then the small kernels.
    Failed, after all rows, where a gradient of ours is not plain torch's."""
    yield from judged(_all(check), faults)


def faults(rows: Sequence[Row]) -> list[str]:
    """Which of our gradients are not plain torch's, or could not be compared with it."""
    return [
        f"{row['name']} {row['shape']}, dead half {row['dead half']}: found a cosine of"
        f" {row.get('cosine')} with the gradient of {TRUTH}, expected {NEAR} or more"
        for row in rows
        if row["name"] in OURS and not row.get("cosine", 0.0) >= NEAR
    ]


def _all(check: Check) -> Iterator[Row]:
    names = [FLOOR, TRUTH, *(name for name in CONTENDERS if name not in (FLOOR, TRUTH))]
    for shape in check.sizes.heads:
        for dead in DEAD:
            yield from _heads(check, shape, dead, names)
    yield from _advantages(check)
    yield from _token_loss(check)


def _heads(check: Check, shape: tuple[int, int, int], dead: str, names: list[str]) -> Iterator[Row]:
    device = check.device
    floor, truth = None, None
    for name in names:
        if name == ONCE and dead != DEAD[0]:
            continue
        row: Row = {"name": name, "shape": list(shape), "dead half": dead}
        try:
            function = CONTENDERS[name]()
            found, gradient = _one(device, shape, dead, function, check.sizes.repeats)
        except Exception as error:  # a peer that is missing or fails: the others go on
            yield row | absent(name, error)
            continue
        finally:
            device.empty()
        floor = found["seconds"] if name == FLOOR else floor
        truth = gradient if name == TRUTH else truth
        if floor is not None:
            row["of floor"] = short(found["seconds"] / floor)
        if gradient is not None and truth is not None:
            row["cosine"] = round(float(torch.cosine_similarity(gradient, truth, dim=0)), 6)
        yield row | found


def _one(
    device: Device,
    shape: tuple[int, int, int],
    dead: str,
    function: Callable[[Scene], None],
    repeats: int,
) -> tuple[dict[str, float], torch.Tensor | None]:
    """(seconds and memory, gradient of the first hidden states [n * H], the same for all)."""
    scene = Scene.make(*shape, device.dtype, device.name, dead)
    function(scene)
    gradient = None
    if scene.hidden.grad is not None:
        gradient = scene.hidden.grad[:1024].float().flatten().clone()

    def fresh() -> None:
        scene.clear()
        scene.hidden.data.normal_()

    return device.timed(lambda: function(scene), fresh=fresh, repeats=repeats), gradient


def _advantages(check: Check) -> Iterator[Row]:
    """Rewards and advantages are float32, the signal a byte: 9 bytes a reward."""
    device = check.device
    for count in check.sizes.rewards:
        rewards = torch.rand(count, device=device.name)
        index = torch.arange(count, device=device.name) // 8

        def plain(rewards: torch.Tensor, index: torch.Tensor) -> Any:
            return advantage.group_advantage_oracle(
                rewards, index, baseline="mean", scale="std", ddof=1, eps=0.0
            )

        traced = compiled(plain)
        contenders = {
            "ours": lambda r=rewards: group_advantage(r, group_size=8),
            "torch eager": lambda r=rewards, i=index: plain(r, i),
            "torch.compile": lambda r=rewards, i=index, f=traced: f(r, i),
        }
        yield from _side_by_side(
            device, f"group_advantage {count}", contenders, rewards.uniform_, 9 * count
        )


def _token_loss(check: Check) -> Iterator[Row]:
    """Three inputs and a gradient in float32: 16 bytes a token."""
    device, count = check.device, check.sizes.loss
    logp, old, advantages = (device.normal(count) for _ in range(3))
    logp.requires_grad_()
    oracle = loss_oracle.policy_loss_oracle
    traced = compiled(oracle)
    contenders = {
        "ours": lambda: policy_loss(logp, advantages, old_logp=old)[0].backward(),
        "torch eager": lambda: oracle(logp, advantages, old_logp=old).backward(),
        "torch.compile": lambda: traced(logp, advantages, old_logp=old).backward(),
    }

    def fresh() -> None:
        logp.grad = None
        logp.data.normal_()

    yield from _side_by_side(device, f"policy_loss {count}", contenders, fresh, 16 * count)


def _side_by_side(
    device: Device,
    what: str,
    contenders: dict[str, Callable[[], Any]],
    fresh: Callable[[], Any],
    size: int,
) -> Iterator[Row]:
    for name, work in contenders.items():
        row: Row = {"name": f"{what}, {name}"}
        try:
            found = device.timed(work, fresh=fresh, repeats=50)
        except Exception as error:
            yield row | absent(name, error)
            continue
        yield row | found | {"tb_per_s": short(size / found["seconds"] / 1e12)}


def absent(name: str, error: Exception) -> Row:
    """What the row of a peer says that has no figure. An error of ours is raised again."""
    if name in OURS:
        raise error
    return {"absent": f"{type(error).__name__}: {error}".splitlines()[0]}
