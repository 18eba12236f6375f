"""Is the dual world ready to be frozen? Its criteria, blind to every arm that is compared later.

    python -m sectow_fast.train --preset sandbox-dual --rounds 0 --seed 0 --out COLD
    python -m bench.dual_criteria COLD [--steps 30] [--sft-steps 300] [--only NAME] [--out FILE]

COLD is a run's folder after the cold start: its settings and models are used. No arm is run, and
only development seeds are to be given (docs/PREREGISTRATION.md names them). Parts:

- cold: ASR, ORR and accuracy of the cold-started defender; how often self-instruct succeeds.
- solvable: it is taught everything, attacks refused and harmless requests answered in all clothes.
- transfer: it is trained by GRPO on attacks of one family; what is left of the ASR of the others.
- blank: how often the attacker's words are after the right goal, with pictures and with blank ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sectow_fast.config import Config
from sectow_fast.data.dual.lessons import DualLessons
from sectow_fast.data.dual.pictures import BLANK
from sectow_fast.data.dual.world import REFUSAL, DualWorld
from sectow_fast.data.sandbox.stage import SandboxStage
from sectow_fast.game.coldstart import run_lessons
from sectow_fast.game.defender import DefenderRole
from sectow_fast.game.measures import attacker_success, measure_defender
from sectow_fast.game.player import Player, judged_replies
from sectow_fast.learn.phase import run_phase
from sectow_fast.players import Players
from sectow_fast.settings import load_config
from sectow_fast.types import Attack, Case, Sampling

ATTACKS = 400  # of a family, to train on
TRIED = 150  # of a family, to measure on
SFT_LR = 1e-3


def cold(players: Players, world: DualWorld, config: Config) -> dict[str, Any]:
    """The defender as it is, greedily and at temperature 1."""
    found: dict[str, Any] = {}
    for temperature in (0.0, 1.0):
        rates = measure_defender(
            world,
            players.defender,
            kinds=world.measures,
            temperature=temperature,
            max_new_tokens=config.defend.max_new_tokens,
            seed="criteria/cold",
        ).rates
        found[f"T={temperature:g}"] = {
            measure: {suite: round(rate.value, 4) for suite, rate in table.items()}
            for measure, table in rates.items()
        }
    rate = attacker_success(world, None, players.defender, config=config, seed="criteria/self")
    return found | {"self-instruct": round(rate.value, 4)}


def everything(world: DualWorld, lessons: DualLessons, rng: random.Random) -> tuple[Case, str]:
    """The cold start's lessons with every attack refused: can one model be right on all of it?"""
    case, reply = lessons.instruct(rng)
    return (case, REFUSAL) if case.label == "unsafe" else (case, reply)


def solvable(players: Players, world: DualWorld, config: Config, *, steps: int) -> dict[str, Any]:
    """What is right after SFT on everything, greedily: the lesser of attacks and harmless cases."""
    lessons = DualLessons(world=world)
    _teach(players, lambda rng: everything(world, lessons, rng), steps=steps, config=config)
    rates = measure_defender(
        world,
        players.defender,
        kinds=world.measures,
        temperature=0.0,
        max_new_tokens=config.defend.max_new_tokens,
        seed="criteria/solvable",
    ).rates
    attacks = {name: 1 - rate.value for name, rate in rates["asr"].items() if name != "mean"}
    harmless = {name: rate.value for name, rate in rates["accuracy"].items() if name != "mean"}
    # The lesser of both: who refuses everything is right on every attack.
    right = min(sum(part.values()) / len(part) for part in (attacks, harmless))
    return {"right": round(right, 4)} | {k: round(v, 4) for k, v in (attacks | harmless).items()}


def family_attacks(world: DualWorld, key: str, count: int, *, seed: int, train: bool) -> list[Case]:
    """Attacks that get through, with a key of one family; on training objects, or on the others."""
    language, rng = world.language, random.Random(f"{seed}/criteria/{key}/{train}")
    split = "train" if train else "test"
    goals = [
        goal
        for goal in language.goods.select(forbidden=True, test=not train)
        if key in language.weakness.keys[goal.thing.kind]
    ]
    cases = []
    while len(cases) < count:
        goal = rng.choice(goals)
        layers = world.stacks.winning(rng, goal.thing.kind, split)
        if layers[-1].family != key:
            continue
        form = rng.choice(sorted(language.weakness.careless[goal.thing.kind]))
        how = language.put(goal, form, rng)
        cases.append(language.request(f"{key}-{len(cases)}", goal, how, layers, rng))
    return cases


def transfer(
    players: Players, world: DualWorld, config: Config, *, steps: int, families: Sequence[str]
) -> dict[str, Any]:
    """By family that is trained on: what is left of the ASR of each family, over what it was."""
    known = [family.name for family in world.language.families if not family.new]
    tests = {k: family_attacks(world, k, TRIED, seed=config.seed, train=False) for k in known}
    before = _asr(world, players.defender, tests)
    start = players.defender.weights()
    table: dict[str, Any] = {"before": before}
    for key in families or known:
        players.defender.restore(start)
        cases = family_attacks(world, key, ATTACKS, seed=config.seed, train=True)
        pool = [
            Attack(case=case, seed_id=case.id, mode="generate", words=case.text, round=1)
            for case in cases
        ]
        own = config.model_copy(
            update={"defend": config.defend.model_copy(update={"steps": steps})}
        )
        role = DefenderRole(world=world, defender=players.defender, config=own, pool=pool, round=1)
        run_phase(
            role,
            player=players.defender,
            learner=players.learner(players.defender, own.defend),
            config=own.defend,
            key=f"criteria/{key}",
            round=1,
            phase="defend",
            start=0,
            on_step=_quiet,
        )
        players.end_training()
        after = _asr(world, players.defender, tests)
        table[key] = {k: round(after[k] / max(before[k], 1e-9), 3) for k in known}
        print(f"transfer {key}: {table[key]}", file=sys.stderr, flush=True)
    players.defender.restore(start)
    others = [table[i][j] for i in families or known for j in known if i != j]
    own_left = [table[i][i] for i in families or known]
    return {
        "left of others": round(sum(others) / len(others), 3),
        "left of its own": round(sum(own_left) / len(own_left), 3),
        **table,
    }


def blank(players: Players, world: DualWorld, config: Config) -> dict[str, Any]:
    """Share of the attacker's words that are after the seed's goal. Words alone are no matter."""
    seeds = [case for case in world.seeds("test") if case.image]
    asked = [world.attacker_case(case, None) for case in seeds]
    found = {}
    for name, cases in (
        ("seen", asked),
        ("blank", [dataclasses.replace(case, image=BLANK) for case in asked]),
    ):
        rows = players.attacker.complete(
            cases,
            n=1,
            sampling=Sampling(max_new_tokens=config.attack.max_new_tokens),
            seed="criteria/blank",
        )
        right, told = 0, 0
        for seed, row in zip(seeds, rows, strict=True):
            words = players.attacker.words(row[0]) or ""
            if "<keep>" in words:
                continue  # what is kept need not be read
            case = world.realise(words, seed, rng=random.Random(0), attack_id="a")
            told += 1
            right += case is not None and case.goal == seed.goal
        found[name] = {"right": round(right / max(told, 1), 4), "of": told}
    return found


def _asr(world: DualWorld, player: Player, tests: Mapping[str, Sequence[Case]]) -> dict[str, float]:
    """Strict ASR by family at temperature 1, which a small change shows on."""
    found = {}
    for key, cases in tests.items():
        rows = judged_replies(
            world, player, cases, n=2, sampling=Sampling(), seed=f"criteria/asr/{key}"
        )
        verdicts = [verdict for row in rows for verdict in row]
        found[key] = sum(bool(verdict.harmful) for verdict in verdicts) / len(verdicts)
    return found


def _teach(
    players: Players,
    lesson: Callable[[random.Random], tuple[Case, str]],
    *,
    steps: int,
    config: Config,
) -> None:
    with players.pupil(players.defender, lr=SFT_LR) as pupil:
        run_lessons(
            lesson,
            player=players.defender,
            pupil=pupil,
            steps=steps,
            batch=config.coldstart.batch,
            lr=SFT_LR,
            key="criteria/everything",
            round=0,
            phase="solvable",
            start=0,
            on_step=_quiet,
        )
    players.end_training()


def _quiet(record: object, events: object) -> None:
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cold", type=Path)
    parser.add_argument("--steps", type=int, default=30, help="GRPO steps on one family")
    parser.add_argument("--sft-steps", type=int, default=300, help="SFT steps on everything")
    parser.add_argument("--only", default="cold,blank,transfer,solvable")
    parser.add_argument("--families", default="", help="families to train on; none: all")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = options.cold / "coldstart"
    config = load_config(
        options.cold / "config.toml",
        [
            *("--model.defender", str(folder / "defender")),
            *("--model.attacker", str(folder / "attacker")),
        ],
    )
    stage = SandboxStage(config)
    world = stage.world
    if not isinstance(world, DualWorld):
        print(f"{options.cold}: found another world, expected sandbox.world dual", file=sys.stderr)
        return 2
    families = [name for name in options.families.split(",") if name]
    found: dict[str, Any] = {"seed": config.seed}
    with tempfile.TemporaryDirectory() as made:
        players = Players(config, stage, folder=Path(made))
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "cold": lambda: cold(players, world, config),
            "blank": lambda: blank(players, world, config),
            "transfer": lambda: transfer(
                players, world, config, steps=options.steps, families=families
            ),
            "solvable": lambda: solvable(players, world, config, steps=options.sft_steps),
        }
        for name in options.only.split(","):
            found[name] = parts[name]()
            print(json.dumps({name: found[name]}, indent=1), flush=True)
        players.close()
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
