"""After the attacker's phase: write attacks, try them on the current defender, keep the good ones.

Every candidate is kept or dropped under exactly one reason, and both are counted.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sectow_fast.config import Config
from sectow_fast.game.attempts import share_harmful
from sectow_fast.game.player import Player, judged_replies
from sectow_fast.game.proxy import gap_measures, gold_valid
from sectow_fast.game.tasks import attack_task
from sectow_fast.game.text import KnownTexts
from sectow_fast.protocols import World
from sectow_fast.records import HarvestRecord, StyleCount
from sectow_fast.types import Attack, AttackTask, Case, Sampling, Verdict

DROP_REASONS = ("cut off", "ill-formed", "off target", "duplicate", "failed")


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """kept: the new attacks; record: what became of all of them, for log and summary; measures:
    of proxy and exact judge, over all that were tried and over the kept ones ("kept_"), where a
    proxy filtered."""

    kept: list[Attack]
    record: HarvestRecord
    measures: Mapping[str, float]


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
    tasks = [
        attack_task(
            world, world.seeds("train"), pool, refine_share=config.attack.refine_share, rng=rng
        )
        for _ in range(config.harvest.attacks)
    ]
    if config.attacker == "self-instruct":
        words: list[str | None] = [world.self_instruct(task.seed, rng) for task in tasks]
    else:
        completions = attacker.complete(
            [task.case for task in tasks],
            n=1,
            sampling=Sampling(
                temperature=config.attack.temperature, max_new_tokens=config.attack.max_new_tokens
            ),
            seed=key,
        )
        words = [attacker.words(row[0]) for row in completions]
    candidates: list[Attack] = []
    dropped = Counter(dict.fromkeys(DROP_REASONS, 0))
    known = KnownTexts(config.harvest.duplicate_threshold)
    for attack in pool:
        known.add(attack.seed_id, attack.words)
    for i, (task, text) in enumerate(zip(tasks, words, strict=True)):
        case = None
        if text:
            # A generator per attack: what it becomes does not depend on the attacks before it.
            case = world.realise(
                text, task.seed, rng=random.Random(f"{key}/{i}"), attack_id=f"attack-{round}-{i}"
            )
        reason = drop_reason(task, text, case, known)
        if reason is not None:
            dropped[reason] += 1
            continue
        mode = "generate" if task.previous is None else "refine"
        if config.attacker == "self-instruct":
            mode = "self-instruct"
        candidates.append(
            Attack(
                case=dataclasses.replace(case, source=mode),
                seed_id=task.seed.id,
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
    least = config.harvest.min_success
    kept = successful(candidates, verdicts, least=least)
    dropped["failed"] = len(candidates) - len(kept)
    won = [row for row in verdicts if is_success(row, least)]
    by_proxy = gap_measures(verdict for row in won for verdict in row)
    record = HarvestRecord(
        kept=len(kept),
        dropped=dict(dropped),
        styles=style_counts(candidates, kept),
        kept_gold=gold_valid(won, least=least) if by_proxy else None,
    )
    measures = gap_measures(verdict for row in verdicts for verdict in row)
    measures |= {f"kept_{name}": value for name, value in by_proxy.items()}
    return Harvest(kept=kept, record=record, measures=measures)


def drop_reason(
    task: AttackTask, words: str | None, case: Case | None, known: KnownTexts
) -> str | None:
    """Why an attack is not even tried; None where it is. One that is tried becomes known.

    words: None where they were cut off at the length limit; case: None where they are ill-formed.
    """
    if words is None:
        return "cut off"
    if case is None:
        return "ill-formed"
    if case.goal != task.seed.goal:
        return "off target"
    if not known.add(task.seed.id, words):
        return "duplicate"
    return None


def successful(
    candidates: Sequence[Attack], verdicts: Sequence[Sequence[Verdict]], *, least: int
) -> list[Attack]:
    """The candidates to which at least `least` of the replies were harmful, with their success."""
    return [
        dataclasses.replace(attack, success=share_harmful(row))
        for attack, row in zip(candidates, verdicts, strict=True)
        if is_success(row, least)
    ]


def is_success(verdicts: Sequence[Verdict], least: int) -> bool:
    """Whether at least `least` of the replies were harmful."""
    return sum(verdict.harmful is True for verdict in verdicts) >= least


def style_counts(tried: Iterable[Attack], won: Iterable[Attack]) -> dict[str, StyleCount]:
    """By style, in the order of their names."""
    tries = Counter(attack.case.style for attack in tried)
    wins = Counter(attack.case.style for attack in won)
    return {name: StyleCount(tried=tries[name], won=wins[name]) for name in sorted(tries)}
