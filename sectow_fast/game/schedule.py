"""What is played, in which order: cold start, K x (attack, harvest, defend, evaluate), league."""

from __future__ import annotations

import math

from sectow_fast.config import Config, DefendConfig


def schedule(config: Config) -> list[tuple[int, str]]:
    """The run as a flat list of (round, phase); a checkpoint's cursor points into it.

    Round 0 is everything before reinforcement learning. Without iteration nothing new is ever
    written: there is one round, and it is one long defence on the existing data.
    """
    given = config.model.defender is not None
    plan = [] if given else [(0, "coldstart-caption"), (0, "coldstart-defender")]
    if attacker_has_cold_start(config):
        plan.append((0, "coldstart-attacker"))  # its model must not have learnt to refuse
    if teaches_refusals(config):
        plan.append((0, "coldstart-refusals"))
    plan.append((0, "evaluate"))
    rounds = last_round(config)
    for k in range(1, rounds + 1):
        if trains_attacker(config):
            plan.append((k, "attack"))
        if config.iterate:
            plan.append((k, "harvest"))
        plan += [(k, "defend"), (k, "evaluate")]
    if config.evaluate.league_cases and rounds:
        plan.append((rounds, "league"))
    return plan


def last_round(config: Config) -> int:
    """How many rounds of reinforcement learning are played."""
    return config.rounds if config.iterate else min(config.rounds, 1)


def keeps_round(config: Config, k: int) -> bool:
    """Whether the players are kept as they are at the end of round k. Round 0 is what ablations
    start from; the others are kept for the league, which meets the last ones themselves."""
    return k == 0 or (config.evaluate.league_cases > 0 and k < last_round(config))


def trains_attacker(config: Config) -> bool:
    """Whether the attacker learns at all: not self-instruct, and none without iteration."""
    return config.attacker == "grpo" and config.iterate


def attacker_has_cold_start(config: Config) -> bool:
    """Whether the attacker is taught demonstrations; one that is given was taught already, unless
    `coldstart.teach_attacker` says otherwise."""
    cold = config.coldstart
    untaught = config.model.attacker is None or cold.teach_attacker
    return trains_attacker(config) and cold.attacker_steps > 0 and untaught


def teaches_refusals(config: Config) -> bool:
    """Whether a defender that is given learns to refuse before any reinforcement learning."""
    return config.model.defender is not None and config.coldstart.refusal_steps > 0


def defend_config(config: Config) -> DefendConfig:
    """A round's defence; without iteration there is one round, as long as all of them."""
    if config.iterate:
        return config.defend
    return config.defend.model_copy(update={"steps": config.defend.steps * config.rounds})


def sft_steps(config: Config) -> int:
    """SFT baseline: as many sequences as the GRPO phase rolls out, so that neither sees more."""
    defend = defend_config(config)
    rolled_out = defend.steps * defend.prompts * defend.group_size
    return math.ceil(rolled_out / config.coldstart.batch)
