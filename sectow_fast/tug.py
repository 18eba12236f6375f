"""The tug-of-war: cold start, then K x (attack, harvest, defend, evaluate). The page to read first.

Every phase can be entered at any step: what a step draws depends on the seed, the round, the phase
and the step alone, so a resumed run repeats nothing and ends in the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from sectow_fast.config import Config, DefendConfig
from sectow_fast.game.attacker import AttackerRole
from sectow_fast.game.coldstart import Lesson, run_lessons
from sectow_fast.game.defender import DefenderRole
from sectow_fast.game.evaluation import attacker_success, evaluate_defender
from sectow_fast.game.pool import harvest
from sectow_fast.learn.phase import run_phase
from sectow_fast.match import Match


def schedule(config: Config) -> list[tuple[int, str]]:
    """The run as a flat list of (round, phase); a checkpoint's cursor points into it."""
    static = "no-iteration" in config.ablate
    plan: list[tuple[int, str]] = []
    if config.model.defender is None:
        plan += [(0, "coldstart-caption"), (0, "coldstart-defender")]
    trains_attacker = config.attacker == "grpo" and not static
    if trains_attacker and config.model.attacker is None and "no-cold-start" not in config.ablate:
        plan.append((0, "coldstart-attacker"))
    plan.append((0, "evaluate"))
    # Without iteration nothing new is ever written: one long phase on the existing data.
    for k in range(1, (min(config.rounds, 1) if static else config.rounds) + 1):
        if trains_attacker:
            plan.append((k, "attack"))
        if not static:
            plan.append((k, "harvest"))
        plan += [(k, "defend"), (k, "evaluate")]
    return plan


def defend_config(config: Config) -> DefendConfig:
    """A round's defence; without iteration there is one round, as long as all of them."""
    if "no-iteration" not in config.ablate:
        return config.defend
    return config.defend.model_copy(update={"steps": config.defend.steps * config.rounds})


def sft_steps(config: Config) -> int:
    """SFT baseline: as many sequences as the GRPO phase rolls out, so that neither sees more."""
    defend = defend_config(config)
    rolled = defend.steps * defend.prompts * defend.group_size
    return math.ceil(rolled / config.coldstart.batch)


def play(match: Match) -> None:
    """Play the schedule from the match's cursor to its end."""
    phases: dict[str, Callable[[Match, int, int], None]] = {
        "coldstart-caption": coldstart_caption,
        "coldstart-defender": coldstart_defender,
        "coldstart-attacker": coldstart_attacker,
        "attack": attack,
        "harvest": gather,
        "defend": defend,
        "evaluate": evaluate,
    }
    plan = schedule(match.config)
    while match.cursor < len(plan):
        k, name = plan[match.cursor]
        phases[name](match, k, match.step)
        match.next_phase()


def coldstart_caption(match: Match, k: int, start: int) -> None:
    """Pictures to words: without it the pictures stay unread (sandbox; our choice)."""
    steps = match.config.coldstart.caption_steps
    _teach(match, "coldstart-caption", match.lessons.caption, steps, start)


def coldstart_defender(match: Match, k: int, start: int) -> None:
    """The model to be secured: it refuses the direct request and falls for several styles."""
    steps = match.config.coldstart.defender_steps
    _teach(match, "coldstart-defender", match.lessons.instruct, steps, start)


def coldstart_attacker(match: Match, k: int, start: int) -> None:
    """The attacker learns to write what a self-instruct attacker writes."""
    if start == 0:
        match.fork_attacker()
    config = match.config.coldstart
    player = match.attacker
    with match.phase(k, "coldstart-attacker", config.attacker_steps):
        run_lessons(
            match.lessons.attacker,
            player=player,
            optimizer=match.optimizer(player, config.attacker_lr, betas=(0.9, 0.98), decay=0.01),
            steps=config.attacker_steps,
            batch=config.batch,
            lr=config.attacker_lr,
            tokens_per_batch=config.tokens_per_batch,
            key=f"{match.config.seed}/coldstart-attacker",
            start=start,
            on_step=match.on_step,
        )
    player.engine.sync(player.model)


def attack(match: Match, k: int, start: int) -> None:
    """Attacker GRPO against the defender as it stands."""
    role = AttackerRole(
        world=match.world,
        attacker=match.attacker,
        defender=match.defender,
        config=match.config,
        pool=match.pool,
        round=k,
    )
    _grpo(match, role, k, "attack", start)


def gather(match: Match, k: int, start: int) -> None:
    """Write attacks, keep those that beat the current defender, and measure the attacker."""
    with match.phase(k, "harvest", 1):
        result = harvest(
            match.world,
            match.attacker,
            match.defender,
            config=match.config,
            pool=match.pool,
            round=k,
        )
        match.pool.extend(result.kept)
        match.write_pool()
        match.pending |= {
            "kept": len(result.kept),
            "dropped": result.dropped,
            "styles": result.styles,
        }
        if match.config.attacker == "grpo":
            for name, defender in (
                ("trained", match.defender),
                ("trained-vs-round-0", match.round_zero),
            ):
                rate = attacker_success(
                    match.world,
                    match.attacker,
                    defender,
                    config=match.config,
                    seed=f"{match.config.seed}/attacker-success",
                )
                match.pending.setdefault("attacker_success", {})[name] = rate.as_dict()
        match.log_row({"kept": len(result.kept), "dropped": result.dropped})


def defend(match: Match, k: int, start: int) -> None:
    """Defender GRPO on kept attacks, existing unsafe and harmless data (or the SFT baseline)."""
    if match.config.defender == "sft":
        steps = sft_steps(match.config)
        _teach(match, "defend", match.safe_lesson(), steps, start, k=k, lr=3e-4)
        return
    role = DefenderRole(
        world=match.world,
        defender=match.defender,
        config=match.config,
        pool=match.pool,
        round=k,
    )
    role.last_good = match.last_good
    _grpo(match, role, k, "defend", start)


def evaluate(match: Match, k: int, start: int) -> None:
    """Every test suite, greedily as the benchmarks decode and at temperature 1 beside it."""
    config = match.config
    with match.phase(k, "evaluate", 1):
        if k == 0:
            if config.model.attacker is None and (0, "coldstart-attacker") not in schedule(config):
                match.fork_attacker()
            match.save_round_zero()
        row: dict = {"round": k}
        for suffix, temperature in (("", 0.0), ("_t1", 1.0)):
            tables = evaluate_defender(
                match.world,
                match.defender,
                measures=match.measures,
                temperature=temperature,
                max_new_tokens=config.defend.max_new_tokens,
                seed=f"{config.seed}/evaluate/{k}",
            )
            row |= {name + suffix: table for name, table in tables.items()}
        rate = attacker_success(
            match.world,
            None,
            match.round_zero if k else match.defender,
            config=config,
            seed=f"{config.seed}/attacker-success",
        )
        row["attacker_success"] = {
            "self-instruct": rate.as_dict(),
            **match.pending.pop("attacker_success", {}),
        }
        match.round_done(row | match.pending)


def _teach(
    match: Match,
    name: str,
    lesson: Lesson,
    steps: int,
    start: int,
    *,
    k: int = 0,
    lr: float | None = None,
) -> None:
    config = match.config.coldstart
    rate = lr or config.lr
    with match.phase(k, name, steps):
        run_lessons(
            lesson,
            player=match.defender,
            optimizer=match.optimizer(match.defender, rate, betas=(0.9, 0.98), decay=0.01),
            steps=steps,
            batch=config.batch,
            lr=rate,
            tokens_per_batch=config.tokens_per_batch,
            key=f"{match.config.seed}/{k}/{name}",
            start=start,
            on_step=match.on_step,
        )
    match.defender.engine.sync(match.defender.model)


def _grpo(match: Match, role: AttackerRole | DefenderRole, k: int, name: str, start: int) -> None:
    config = match.config.attack if role.name == "attacker" else defend_config(match.config)
    player = match.attacker if role.name == "attacker" else match.defender
    match.role = role
    if match.role_state:
        role.restore(match.role_state)
    with match.phase(k, name, config.steps), match.saving_the_failed_batch():
        run_phase(
            role,
            player=role.rollout_player(),
            optimizer=match.optimizer(player, config.lr, betas=(0.9, 0.95), decay=0.0),
            config=config,
            key=f"{match.config.seed}/{k}/{name}",
            start=start,
            on_step=match.on_step,
            reference=match.reference(role.name) if config.kl_coef else None,
            skipped=match.skipped,
        )
