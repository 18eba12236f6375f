"""After the attacker's phase: write attacks, try them on the current defender, keep the good ones.

Every candidate is kept or dropped under exactly one reason, and both are counted.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sectow_fast.config import Config
from sectow_fast.game.attacker import attack_task
from sectow_fast.game.player import Player, judged_replies
from sectow_fast.game.text import KnownTexts
from sectow_fast.types import Attack, Case, Sampling, World

DROP_REASONS = ("cut off", "ill-formed", "off target", "duplicate", "failed")


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """kept: new attacks; dropped: reason -> count; styles: style -> {"tried", "won"}."""

    kept: list[Attack]
    dropped: dict[str, int]
    styles: dict[str, dict[str, int]]


def harvest(
    world: World,
    attacker: Player,
    defender: Player,
    *,
    config: Config,
    pool: Sequence[Attack],
    round: int,
) -> Harvest:
    """Write `config.harvest.attacks` candidates (new and refined) and filter them."""
    key = f"{config.seed}/{round}/harvest"
    rng = random.Random(key)
    seeds = world.seeds("train")
    count = config.harvest.attacks
    tasks = [attack_task(world, seeds, pool, config.attack.refine_share, rng) for _ in range(count)]
    if config.attacker == "self-instruct":
        words: list[str | None] = [world.self_instruct(seed, rng) for _, seed, _ in tasks]
    else:
        groups = attacker.complete(
            [case for case, _, _ in tasks],
            n=1,
            sampling=Sampling(
                temperature=config.attack.temperature,
                max_new_tokens=config.attack.max_new_tokens,
            ),
            seed=key,
        )
        words = [attacker.words(group[0]) for group in groups]

    dropped = Counter({reason: 0 for reason in DROP_REASONS})
    known = KnownTexts(config.harvest.duplicate_threshold)
    for attack in pool:
        known.add(attack.seed_id, attack.words)
    candidates: list[Attack] = []
    for i, ((_, seed, previous), text) in enumerate(zip(tasks, words, strict=True)):
        attack_id = f"attack-{round}-{i}"
        case = text and world.realise(text, seed, rng=rng, attack_id=attack_id)
        if text is None:
            dropped["cut off"] += 1
        elif not case:
            dropped["ill-formed"] += 1
        elif case.goal != seed.goal:
            dropped["off target"] += 1
        elif not known.add(seed.id, text):
            dropped["duplicate"] += 1
        else:
            mode = "refine" if previous is not None else "generate"
            if config.attacker == "self-instruct":
                mode = "self-instruct"
            candidates.append(
                Attack(
                    case=dataclasses.replace(case, source=mode),
                    seed_id=seed.id,
                    mode=mode,
                    words=text,
                    round=round,
                )
            )

    verdicts = judged_replies(
        world,
        defender,
        [attack.case for attack in candidates],
        n=config.harvest.replies,
        sampling=Sampling(
            temperature=config.defend.temperature, max_new_tokens=config.defend.max_new_tokens
        ),
        seed=f"{key}/replies",
    )
    kept: list[Attack] = []
    styles: dict[str, dict[str, int]] = {}
    for attack, row in zip(candidates, verdicts, strict=True):
        hits = sum(verdict.harmful is True for verdict in row)
        tally = styles.setdefault(attack.case.style, {"tried": 0, "won": 0})
        tally["tried"] += 1
        if hits >= config.harvest.min_success:
            tally["won"] += 1
            kept.append(dataclasses.replace(attack, success=hits / len(row)))
        else:
            dropped["failed"] += 1
    return Harvest(kept=kept, dropped=dict(dropped), styles=dict(sorted(styles.items())))


def attack_as_dict(attack: Attack) -> dict:
    """A flat JSON object; `attack_from_dict` is its inverse."""
    case = dataclasses.asdict(attack.case)
    row = dataclasses.asdict(attack)
    row["case"] = case
    return row | {"style": attack.case.style, "goal": attack.case.goal, "image": attack.case.image}


def attack_from_dict(row: dict) -> Attack:
    names = {field.name for field in dataclasses.fields(Attack)}
    values = {name: value for name, value in row.items() if name in names}
    return Attack(**values | {"case": Case(**row["case"])})


def pool_lines(pool: Sequence[Attack]) -> str:
    """`pool.jsonl`: one kept attack a line."""
    return "".join(json.dumps(attack_as_dict(attack)) + "\n" for attack in pool)


def write_pool(path: Path, pool: Sequence[Attack]) -> None:
    """Write the whole pool at once (a reader never sees half a file)."""
    part = path.with_suffix(".part")
    part.write_text(pool_lines(pool))
    part.replace(path)
