"""`--dry-run`: what a run would do and need, before it does anything."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from sectow_fast.config import Config
from sectow_fast.tug import defend_config, schedule, sft_steps

if TYPE_CHECKING:
    import torch

    from sectow_fast.engine.memory import MemoryPlan

BYTES = 4  # float32, in which the sandbox trains


def print_plan(config: Config) -> None:
    """Model sizes, tokens a step, memory and time; the time from one measured step of each kind."""
    from sectow_fast.engine.registry import engine_kind
    from sectow_fast.stages import make_stage

    engine = engine_kind(config)
    memory = engine.memory_plan(config)
    if memory is not None:
        _print_memory(config, memory)
        return
    stage = make_stage(config)
    model = stage.defender()
    parameters = sum(p.numel() for p in model.parameters())
    console = Console()
    console.print(
        f"[bold]{config.preset}[/bold], seed {config.seed}: two copies of {type(model).__name__},"
        f" {parameters / 1e6:.2f} M parameters each, {len(stage.codec.tokenizer)} tokens"
    )
    table = Table("round", "phase", "steps", "groups x G", "tokens/step", "time")
    total = 0.0
    measured: dict[str, Step] = {}
    for k, name in schedule(config):
        steps, groups, size = _shape(config, name)
        seconds, tokens = 0.0, 0
        if steps:
            kind = "sft" if name.startswith("coldstart") or config.defender == "sft" else name
            if kind not in measured:
                measured[kind] = _measure(config, stage, model, kind, groups, size)
            seconds, tokens = measured[kind].seconds * steps, measured[kind].tokens
        total += seconds
        table.add_row(
            str(k),
            name,
            str(steps or "-"),
            f"{groups} x {size}" if groups else "-",
            f"{tokens:,}" if tokens else "-",
            f"{seconds:.0f} s" if steps else "a few s",
        )
    console.print(table)
    weights = parameters * BYTES
    console.print(
        f"memory: weights {2 * weights / 2**20:.0f} MiB, optimizer {2 * weights / 2**20:.0f} MiB,"
        f" gradients {weights / 2**20:.0f} MiB, activations"
        f" {max((m.saved for m in measured.values()), default=0) / 2**20:.0f} MiB"
        " (measured; one role trains at a time);"
        f" time: about {total / 60:.1f} min and the evaluations. Nothing was written."
    )
    remark = engine.remark(config, weights)
    if remark:
        console.print(remark)


def _print_memory(config: Config, plan: MemoryPlan) -> None:
    """What each phase keeps on a GPU."""
    from sectow_fast.engine.memory import GIB

    console = Console()
    console.print(
        f"[bold]{config.preset}[/bold], seed {config.seed}: two copies of {config.model.defender},"
        f" {config.engine.gpus} GPUs of {plan.gpu / GIB:.0f} GiB, {config.engine.dtype} engines"
    )
    table = Table("round", "phase", "steps", "groups x G", "tokens/step, at most")
    for k, phase in schedule(config):
        steps, groups, size = _shape(config, phase)
        grpo = {"attack": config.attack, "defend": config.defend}.get(phase)
        tokens = groups * size * grpo.max_new_tokens if grpo else 0
        table.add_row(
            str(k),
            phase,
            str(steps or "-"),
            f"{groups} x {size}" if groups else "-",
            f"{tokens:,}" if tokens else "-",
        )
    console.print(table)
    parts = dict.fromkeys(part for phase in plan.phases.values() for part in phase)
    table = Table("GiB on each GPU", *plan.phases)
    for part in parts:
        sizes = [phase.get(part, 0) / GIB for phase in plan.phases.values()]
        table.add_row(part, *[f"{size:.1f}" if size else "-" for size in sizes])
    table.add_row("all", *[f"{sum(p.values()) / GIB:.1f}" for p in plan.phases.values()])
    console.print(table)
    roles = {"two": "an engine for each player", "swap": "one engine that swaps weights"}
    where = "stay on the GPU"
    if plan.offload:
        where = (
            f"rest in {plan.host / GIB:.0f} GiB of pinned host memory between updates"
            if config.engine.gpus == 1
            else "would have to rest in host memory, which several ranks cannot: use larger GPUs"
        )
    verdict = "it fits" if plan.fits else "it does NOT fit: more GPUs, or less tokens_per_batch"
    console.print(
        f"rollout by {roles[plan.roles]}; engines sleep while training, and get all weights again"
        f" on waking; optimizer and idle master weights {where}; {verdict}. Estimates, not measured"
        " on a GPU yet. Nothing was written."
    )


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step as it was measured here. saved: bytes that autograd kept for the backward pass."""

    seconds: float
    tokens: int
    saved: int


class SavedBytes:
    """Counts the bytes autograd saves while it is entered; storage that is shared counts once."""

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        import torch

        self._sizes: dict[int, int] = {}
        self._known = {p.untyped_storage().data_ptr() for p in parameters}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda saved: saved)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    @property
    def total(self) -> int:
        return sum(self._sizes.values())


def _shape(config: Config, name: str) -> tuple[int, int, int]:
    cold = config.coldstart
    if name == "attack":
        return config.attack.steps, config.attack.prompts, config.attack.group_size
    if name == "defend":
        if config.defender == "sft":
            return sft_steps(config), cold.batch, 1
        defend = defend_config(config)
        return defend.steps, defend.prompts, defend.group_size
    steps = {
        "coldstart-caption": cold.caption_steps,
        "coldstart-defender": cold.defender_steps,
        "coldstart-attacker": cold.attacker_steps,
    }.get(name, 0)
    return steps, cold.batch if steps else 0, 1


def _lesson(stage: Any) -> Any:
    """A lesson like those of the run; real suites have no cold start of the defender."""
    return getattr(stage.lessons, "instruct", None) or stage.lessons.attacker


def _measure(config: Config, stage: Any, model: Any, kind: str, groups: int, size: int) -> Step:
    """One step of a kind on this machine, the quickest of three."""
    import random

    from sectow_fast.engine.torch_engine import TorchEngine
    from sectow_fast.learn.grpo import grpo_step
    from sectow_fast.learn.optim import make_optimizer
    from sectow_fast.learn.placement import training_device
    from sectow_fast.learn.policy import make_policy
    from sectow_fast.learn.sft import sft_step
    from sectow_fast.types import Group, Reward, Sampling

    model.to(training_device(config.learn.device))
    policy = make_policy(model, stage.codec, config.learn)
    optimizer = make_optimizer(model, 0.0, betas=(0.9, 0.95), weight_decay=0.0)
    rng = random.Random("plan")
    times, tokens = [], 0
    for _ in range(3):
        begin = time.perf_counter()
        if kind == "sft":
            drawn = [_lesson(stage)(rng) for _ in range(groups)]
            prompts = stage.codec.encode([case for case, _ in drawn])
            replies = [stage.codec.encode_reply(reply) for _, reply in drawn]
            pairs = list(zip(prompts, replies, strict=True))
            with SavedBytes(model.parameters()) as saved:
                sft_step(policy, optimizer, pairs)
            tokens = sum(len(p.ids) + len(r) for p, r in pairs)
        else:
            grpo = config.attack if kind == "attack" else config.defend
            cases = [rng.choice(stage.world.train_cases("harmless")) for _ in range(groups)]
            prompts = stage.codec.encode(cases)
            sampling = Sampling(max_new_tokens=grpo.max_new_tokens)
            replies = TorchEngine(model, stage.codec).generate(
                prompts, n=size, sampling=sampling, seed="plan"
            )
            batch = [
                Group(
                    prompt=prompt,
                    completions=tuple(group),
                    rewards=tuple(Reward(total=float(i % 2)) for i in range(size)),
                )
                for prompt, group in zip(prompts, replies, strict=True)
            ]
            with SavedBytes(model.parameters()) as saved:
                row = grpo_step(policy, optimizer, batch, config=grpo)
            tokens = int(row["tokens"])
        times.append(time.perf_counter() - begin)
    return Step(seconds=min(times), tokens=tokens, saved=saved.total)
