"""`--dry-run`: what a run would do and need, before it does anything."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from sectow_fast.config import Config
from sectow_fast.engine.registry import engine_kind
from sectow_fast.game.coldstart import run_lessons
from sectow_fast.game.schedule import defend_config, schedule, sft_steps
from sectow_fast.learn.memory import GIB, MemoryPlan, memory_plan
from sectow_fast.learn.phase import run_phase
from sectow_fast.players import Players, check_settings
from sectow_fast.protocols import Stage, World
from sectow_fast.records import StepRecord
from sectow_fast.stages import make_stage
from sectow_fast.types import Completion, DefendTask, Event, Reward, RoleName, Scores

BYTES = 4  # float32, in which the sandbox trains
TRIES = 3  # steps that are measured; the quickest counts


def print_plan(config: Config) -> None:
    """Model sizes, tokens per step, memory and time; the time is of measured steps, by phase."""
    kind = engine_kind(config)
    check_settings(config)
    memory = memory_plan(config)
    if memory is not None:
        _print_memory(config, memory)
        return
    stage = make_stage(config)
    # Measured with rollout in this process: another engine would take longer to start than to tell.
    engine = config.engine.model_copy(update={"kind": "torch"})
    here = config.model_copy(update={"engine": engine})
    with tempfile.TemporaryDirectory() as folder:
        players = Players(here, stage, folder=Path(folder))
        try:
            _print_measured(here, stage, players, remark=partial(kind.remark, config))
        finally:
            players.close()


def _print_measured(
    config: Config, stage: Stage, players: Players, *, remark: Callable[[int], str]
) -> None:
    """Steps of each phase as the trainer plays them on this machine."""
    model = players.defender.model
    parameters = sum(p.numel() for p in model.parameters())
    vocabulary = model.get_input_embeddings().num_embeddings
    console = Console()
    console.print(
        f"[bold]{config.preset}[/bold], seed {config.seed}: two copies of {type(model).__name__},"
        f" {parameters / 1e6:.2f} M parameters each, {vocabulary} tokens"
    )
    table = Table("round", "phase", "steps", "groups x G", "tokens/step", "time")
    total = 0.0
    plan = schedule(config)
    measured: dict[str, Step] = {}
    for name in dict.fromkeys(name for _, name in plan if _shape(config, name)[0]):
        measured[name] = _measure(config, stage, players, name)
    reply = max((step.reply for step in measured.values()), default=0.0)
    for k, name in plan:
        steps, groups, size = _shape(config, name)
        seconds, tokens = reply * replies_beside(config, stage.world, name), 0
        if steps:
            seconds += measured[name].seconds * steps
            tokens = measured[name].tokens
        total += seconds
        table.add_row(
            str(k),
            name,
            str(steps or "-"),
            f"{groups} x {size}" if groups else "-",
            f"{tokens:,}" if tokens else "-",
            f"{'' if steps else 'about '}{seconds:.0f} s" if seconds else "a few s",
        )
    console.print(table)
    weights = parameters * BYTES
    console.print(
        f"memory: weights {2 * weights / 2**20:.0f} MiB, optimizer {2 * weights / 2**20:.0f} MiB,"
        f" gradients {weights / 2**20:.0f} MiB, activations"
        f" {max((m.saved for m in measured.values()), default=0) / 2**20:.0f} MiB"
        " (measured; one role trains at a time);"
        f" time: about {total / 60:.1f} min. Nothing was written."
    )
    if words := remark(weights):
        console.print(words)


def _print_memory(config: Config, plan: MemoryPlan) -> None:
    """What each phase keeps on a GPU."""
    console = Console()
    console.print(
        f"[bold]{config.preset}[/bold], seed {config.seed}: two copies of {config.model.defender},"
        f" {config.engine.gpus} GPUs of {plan.gpu / GIB:.0f} GiB, {config.engine.dtype} engines"
    )
    table = Table("round", "phase", "steps", "groups x G", "tokens/step, at most")
    for k, phase in schedule(config):
        steps, groups, size = _shape(config, phase)
        grpo = {"attack": config.attack, "defend": config.defend}.get(phase)
        tokens = groups * size * grpo.max_new_tokens * (1 + grpo.refill_turns) if grpo else 0
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
    where = "in host memory" if plan.offload else "on the GPU"
    verdict = "it fits" if plan.fits else "it does NOT fit: more GPUs, or less tokens_per_batch"
    console.print(
        f"rollout by {roles[plan.roles]} with {plan.cache_tokens:,} tokens of cache each; engines"
        " sleep while training, and get all weights again on waking; master weights and optimizer"
        f" live {where}; each rank takes {plan.host / GIB:.0f} GiB of host memory; {verdict}."
        " Training is tracked on fake tensors; what engines take beside weights and cache is"
        " estimated, and nothing is measured on a GPU yet. Nothing was written."
    )


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step as it was measured here. saved: bytes that autograd kept for the backward pass;
    reply: seconds of rollout for each completion, 0 where there is no rollout."""

    seconds: float
    reply: float
    tokens: int
    saved: int


class SavedBytes:
    """Counts the bytes autograd saves while it is entered; storage that is shared counts once."""

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
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

    def taken(self) -> int:
        """The bytes so far; counting begins anew."""
        total, self._sizes = sum(self._sizes.values()), {}
        return total


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
        "coldstart-refusals": cold.refusal_steps,
    }.get(name, 0)
    return steps, cold.batch if steps else 0, 1


def replies_beside(config: Config, world: World, name: str) -> int:
    """How many completions a phase asks for beside those of its steps, for the dry run."""
    tried = config.evaluate.attacker_cases
    if name == "defend" and config.defender == "grpo":
        looks = defend_config(config).steps // config.monitor.every
        looks += config.monitor.against == "round-0"  # and one before the first step
        return looks * len(world.harmless_probe())
    if name == "coldstart-refusals":
        return config.coldstart.own_replies
    if name == "harvest":
        # Then self-instruct against the present defender, and the trained one against two.
        own = config.attacker == "grpo"
        written = config.harvest.attacks * (own + config.harvest.replies)
        return written + (5 if own else 1) * tried
    if name == "evaluate":
        # Greedy and at temperature 1; then self-instruct attacks against the first defender.
        return 2 * sum(len(cases) for cases in world.suites().values()) + tried
    return 0


class EveryOtherReward:
    """A role for measuring a step: every second completion is rewarded, so that all groups train.

    A real step has groups without a signal too, and is quicker.
    """

    name: RoleName = "defender"
    stopped = False
    last_good = None
    entropy_coef = None
    rate = 1.0

    def __init__(self, world: World, *, prompts: int, group_size: int) -> None:
        self._cases, self._prompts = world.train_cases("harmless"), prompts
        self._rewards = [Reward(total=float(j % 2)) for j in range(group_size)]

    def tasks(self, step: int, *, turn: int = 0, count: int | None = None) -> list[DefendTask]:
        drawn = random.Random(f"plan/{step}").choices(range(len(self._cases)), k=self._prompts)
        return [
            DefendTask(case=self._cases[place], source="harmless", place=place) for place in drawn
        ]

    def scorer(self, step: int, tasks: Sequence[DefendTask], *, turn: int = 0) -> EveryOtherReward:
        return self

    def take(self, i: int, j: int, completion: Completion) -> None:
        """What was written does not matter."""

    def finish(self) -> Scores:
        return Scores(rewards=[self._rewards] * self._prompts, measures={})

    def watch(
        self, step: int, measures: Mapping[str, float]
    ) -> tuple[list[Event], dict[str, float]]:
        return [], {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing is kept."""


def _measure(config: Config, stage: Stage, players: Players, name: str) -> Step:
    """One step of a phase on this machine, by the trainer itself: the quickest of three."""
    records: list[StepRecord] = []
    kept: list[int] = []
    saved = SavedBytes(players.defender.model.parameters())

    def on_step(record: StepRecord, events: Sequence[Event]) -> None:
        records.append(record)
        kept.append(saved.taken())

    common = {"key": "plan", "round": 0, "phase": name, "start": 0, "on_step": on_step}
    player = players.defender
    with saved:
        if name.startswith("coldstart") or (name == "defend" and config.defender == "sft"):
            # Nobody has answered yet: a request stands for its reply.
            replies = {case.id: case.text for case in stage.world.train_cases("harmless")}
            lesson = stage.lessons.get(name) or stage.safe_lesson([], replies)
            batch, lr = config.coldstart.batch, config.coldstart.lr
            with players.pupil(player, lr=lr) as pupil:
                run_lessons(
                    lesson, player=player, pupil=pupil, steps=TRIES, batch=batch, lr=lr, **common
                )
        else:
            grpo = config.attack if name == "attack" else config.defend
            loss = grpo.loss.model_copy(update={"kl_coef": 0.0})  # its reference is not there yet
            grpo = grpo.model_copy(update={"steps": TRIES, "loss": loss})
            role = EveryOtherReward(stage.world, prompts=grpo.prompts, group_size=grpo.group_size)
            learner = players.learner(player, grpo)
            run_phase(role, player=player, learner=learner, config=grpo, **common)
    rolled = config.attack if name == "attack" else config.defend
    drawn = rolled.prompts * rolled.group_size
    return Step(
        reply=min(record.seconds.get("rollout", 0.0) for record in records) / drawn,
        seconds=min(sum(record.seconds.values()) for record in records),
        tokens=int(records[-1].measures["tokens"]),
        saved=max(kept),
    )
