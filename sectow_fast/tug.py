"""The tug-of-war: cold start, K x (attack, harvest, defend, evaluate), league. Read this first.

Every phase can be entered at any step: what a step draws depends on the seed, the round, the phase
and the step alone, so a resumed run repeats nothing and ends in the same weights.
"""

from __future__ import annotations

from collections.abc import Callable

from sectow_fast import teaching
from sectow_fast.config import GRPOConfig
from sectow_fast.game.attacker import AttackerRole
from sectow_fast.game.defender import DefenderRole
from sectow_fast.game.harvest import harvest
from sectow_fast.game.league import play_league, round_name
from sectow_fast.game.leak import measure_leak
from sectow_fast.game.measures import attacker_success, measure_defender
from sectow_fast.game.player import Player
from sectow_fast.game.proxy import paid_world
from sectow_fast.game.schedule import (
    attacker_has_cold_start,
    defend_config,
    keeps_round,
    schedule,
    teaches_refusals,
    trains_attacker,
)
from sectow_fast.learn.phase import Role, run_phase
from sectow_fast.match import Journal, Match
from sectow_fast.rounds import LeakRecord, RoundRecord
from sectow_fast.types import Event, RoleName


def play(match: Match, journal: Journal) -> None:
    """Play the schedule from the match's cursor to its end."""
    plan = schedule(match.config)
    while match.cursor < len(plan):
        k, name = plan[match.cursor]
        PHASES[name](match, journal, k)
        journal.next_phase()


def attack(match: Match, journal: Journal, k: int) -> None:
    """Attacker GRPO against the defender as it stands."""
    role = AttackerRole(
        world=paid_world(match.stage, match.config),
        attacker=match.cast.attacker,
        defender=match.cast.defender,
        config=match.config,
        pool=match.pool,
        round=k,
        cold=match.cold_attacker,
    )
    _grpo(match, journal, role, player=match.cast.attacker, config=match.config.attack, k=k)
    match.queries["attack"] = role.queries


def harvest_attacks(match: Match, journal: Journal, k: int) -> None:
    """Write attacks, keep those that beat the current defender, and measure the attacker."""
    config, cast, world = match.config, match.cast, match.stage.world
    queries = None
    if config.query_budget is not None:
        queries = config.query_budget - match.queries.get("attack", 0)
    with journal.timed(k, "harvest") as measures:
        found = harvest(
            paid_world(match.stage, config),
            cast.attacker,
            cast.defender,
            config=config,
            pool=match.pool,
            round=k,
            queries=queries,
        )
        measures |= found.measures
        match.pool.extend(found.kept)
        match.harvest, match.queries["harvest"] = found.record, found.queries
        if found.short is not None:
            journal.on_event(
                Event(kind="harvest", message=found.short, round=k, phase="harvest", step=0)
            )
        journal.write_pool()
        trials = {"self-instruct-now": (None, cast.defender)}
        if config.attacker == "grpo":
            trials |= {
                "trained": (cast.attacker, cast.defender),
                "trained-vs-round-0": (cast.attacker, cast.round_zero()),
            }
        for name, (attacker, defender) in trials.items():
            match.attacker_rates[name] = attacker_success(
                world,
                attacker,
                defender,
                config=config,
                seed=f"{config.seed}/attacker-success",
            )


def defend(match: Match, journal: Journal, k: int) -> None:
    """Defender GRPO on kept attacks, existing unsafe and harmless data (or the SFT baseline)."""
    config = match.config
    if config.defender == "sft":
        return teaching.defend_by_sft(match, journal, k)
    role = DefenderRole(
        world=paid_world(match.stage, config),
        defender=match.cast.defender,
        config=config,
        pool=match.pool,
        round=k,
        zero=match.zero,
    )
    if match.role_state is None:
        match.zero = role.begin()
    _grpo(match, journal, role, player=match.cast.defender, config=defend_config(config), k=k)


def evaluate(match: Match, journal: Journal, k: int) -> None:
    """Every test suite, greedily as the benchmarks decode and at temperature 1; and the leak."""
    config, cast, world = match.config, match.cast, match.stage.world
    with journal.timed(k, "evaluate"):
        if k == 0:
            apart = attacker_has_cold_start(config) or teaches_refusals(config)
            if config.model.attacker is None and not apart:
                cast.fork_attacker()
        if keeps_round(config, k):
            cast.save_round(k)
        if k == 0 and config.attack.on_collapse == "fresh-start":
            match.cold_attacker = cast.attacker.weights()
        greedy, sampled = (
            measure_defender(
                world,
                cast.defender,
                kinds=match.stage.measures,
                temperature=temperature,
                max_new_tokens=config.defend.max_new_tokens,
                seed=f"{config.seed}/evaluate/{k}",
            )
            for temperature in (0.0, 1.0)
        )
        self_instruct = attacker_success(
            world,
            None,
            cast.round_zero() if k else cast.defender,
            config=config,
            seed=f"{config.seed}/attacker-success",
        )
        leak = _leak(match)
    record = RoundRecord(
        round=k,
        rates=greedy.rates,
        rates_t1=sampled.rates,
        graded=greedy.graded,
        graded_t1=sampled.graded,
        leak=leak,
        attacker_success={"self-instruct": self_instruct} | match.attacker_rates,
        harvest=match.harvest,
        queries=dict(match.queries),
        events=tuple(match.events),
    )
    journal.round_done(record)


def league(match: Match, journal: Journal, k: int) -> None:
    """Every round's attacker against every round's defender, after the last round."""
    config, cast = match.config, match.cast

    def as_of(role: RoleName, number: int) -> Callable[[], Player]:
        if number == k:
            return lambda: cast.attacker if role == "attacker" else cast.defender
        return lambda: cast.as_of(role, number)

    rounds = range(k + 1)
    learnt = rounds if trains_attacker(config) else ()
    with journal.timed(k, "league"):
        match.league = play_league(
            match.stage.world,
            attackers={round_name(number): as_of("attacker", number) for number in learnt},
            defenders={round_name(number): as_of("defender", number) for number in rounds},
            config=config,
        )


PHASES: dict[str, Callable[[Match, Journal, int], None]] = {
    "coldstart-caption": teaching.coldstart_caption,
    "coldstart-defender": teaching.coldstart_defender,
    "coldstart-attacker": teaching.coldstart_attacker,
    "coldstart-refusals": teaching.coldstart_refusals,
    "attack": attack,
    "harvest": harvest_attacks,
    "defend": defend,
    "evaluate": evaluate,
    "league": league,
}


def _leak(match: Match) -> LeakRecord | None:
    """None where the world lists no harmful replies, or the settings ask for none."""
    config, player = match.config, match.cast.defender
    if match.stage.space is None or not config.evaluate.leak_attacks:
        return None
    player.engine.sleep()  # the device is the trainer's while it computes
    return measure_leak(
        match.stage.space,
        player.policy,
        player.codec,
        most=config.evaluate.leak_attacks,
        seed=str(config.seed),
        tokens_per_batch=config.defend.tokens_per_batch,
    )


def _grpo(
    match: Match, journal: Journal, role: Role, *, player: Player, config: GRPOConfig, k: int
) -> None:
    name = "attack" if role.name == "attacker" else "defend"
    match.enter(role)
    journal.phase(k, name, config.steps)
    with journal.saving_the_failed_batch():
        run_phase(
            role,
            player=player,
            learner=match.cast.learner(player, config),
            config=config,
            key=f"{match.config.seed}/{k}/{name}",
            round=k,
            phase=name,
            start=match.step,
            on_step=journal.on_step,
            skipped=match.skipped,
        )
