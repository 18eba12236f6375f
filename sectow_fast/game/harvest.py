"""After the attacker's phase: write attacks, try them on the current defender, keep the good ones.

Every candidate is kept or dropped under exactly one reason, and both are counted. What an attack
becomes depends on its number alone, so a harvest that ends early is the beginning of a longer one.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from sectow_fast.config import Config
from sectow_fast.game.attempts import share_harmful
from sectow_fast.game.player import Player, judged_replies
from sectow_fast.game.proxy import gap_measures, gold_valid
from sectow_fast.game.tasks import attack_task
from sectow_fast.game.text import KnownTexts
from sectow_fast.protocols import World
from sectow_fast.rounds import HarvestRecord, StyleCount
from sectow_fast.types import Attack, AttackTask, Case, Sampling, Verdict

DROP_REASONS = ("cut off", "ill-formed", "off target", "duplicate", "failed")
# Reasons of a bounded harvest, counted where they occur: no query was left to try it, its style had
# enough, or all together had.
BOUNDS = ("no queries left", "style full", "enough kept")


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """kept: the new attacks; record: what became of all of them, for log and summary; queries: the
    replies that the defender was asked for. measures: of proxy and exact judge, over all that were
    tried and over the kept ones ("kept_"), where a proxy filtered. short: what was wanted and not
    reached, for an event; None where nothing was."""

    kept: list[Attack]
    record: HarvestRecord
    queries: int
    measures: Mapping[str, float]
    short: str | None = None


class Sieve:
    """What a harvest has kept, dropped and spent so far.

    queries: how many replies may be asked for; None: no bound.
    """

    def __init__(
        self, config: Config, world: World, pool: Sequence[Attack], *, queries: int | None
    ) -> None:
        self._config, self._queries = config.harvest, queries
        self.known = KnownTexts(config.harvest.duplicate_threshold)
        for attack in pool:
            self.known.add(attack.seed_id, world.meaning(attack.words, attack.case))
        bounds = (queries, self._config.kept, self._config.style_quota)
        self.bounded = any(bound is not None for bound in bounds)
        self.dropped = Counter(dict.fromkeys(DROP_REASONS, 0))
        self.tried: list[Attack] = []
        self.kept: list[Attack] = []
        self._verdicts: list[Sequence[Verdict]] = []  # of all that were tried
        self._kept_verdicts: list[Sequence[Verdict]] = []

    @property
    def spent(self) -> int:
        """Replies that were asked for."""
        return len(self.tried) * self._config.replies

    @property
    def done(self) -> bool:
        """Whether enough are kept, or no attack more can be tried."""
        return self._enough or self._affordable(1) < 1

    @property
    def _enough(self) -> bool:
        return self._config.kept is not None and len(self.kept) >= self._config.kept

    def full_styles(self) -> Set[str]:
        """Styles of which no more are kept."""
        quota = self._config.style_quota
        if quota is None:
            return frozenset()
        counts = Counter(attack.case.style for attack in self.kept)
        return {style for style, count in counts.items() if count >= quota}

    def payable(self, candidates: Sequence[Attack]) -> list[Attack]:
        """The first of the candidates, as many as there are replies left for."""
        count = self._affordable(len(candidates))
        self.dropped["no queries left"] += len(candidates) - count
        return list(candidates[:count])

    def take(self, tried: Sequence[Attack], verdicts: Sequence[Sequence[Verdict]]) -> None:
        """Keep those that succeeded, as long as there is room for them."""
        self.tried += tried
        self._verdicts += verdicts
        for attack, row in zip(tried, verdicts, strict=True):
            if not is_success(row, self._least):
                self.dropped["failed"] += 1
            elif self._enough:
                self.dropped["enough kept"] += 1
            elif attack.case.style in self.full_styles():
                self.dropped["style full"] += 1
            else:
                self.kept.append(dataclasses.replace(attack, success=share_harmful(row)))
                self._kept_verdicts.append(row)

    @property
    def _least(self) -> float:
        return self._config.min_success if self._config.filter else 0

    def _affordable(self, wanted: int) -> int:
        if self._queries is None:
            return wanted
        return min(wanted, (self._queries - self.spent) // self._config.replies)

    def result(self) -> Harvest:
        # A reason that never occurs is no news where a bound has brought it in.
        dropped = {name: n for name, n in self.dropped.items() if n or name in DROP_REASONS}
        styles = style_counts(self.tried, self.kept)
        by_proxy = gap_measures(verdict for row in self._kept_verdicts for verdict in row)
        gold = gold_valid(self._kept_verdicts, least=self._least) if by_proxy else None
        measures = gap_measures(verdict for row in self._verdicts for verdict in row)
        return Harvest(
            kept=self.kept,
            record=HarvestRecord(
                kept=len(self.kept), dropped=dropped, styles=styles, kept_gold=gold
            ),
            queries=self.spent,
            measures=measures | {f"kept_{name}": value for name, value in by_proxy.items()},
            short=None if self.done else self._short(),
        )

    def _short(self) -> str | None:
        written = f"all {self._config.attacks:,} attacks were written"
        if self._queries is not None:
            left = self._queries - self.spent
            return f"harvest ended with {left:,} defender queries left: {written}"
        if self._config.kept is not None:
            return f"harvest kept {len(self.kept):,} of {self._config.kept:,} wanted: {written}"
        return None


def harvest(
    world: World,
    attacker: Player,
    defender: Player,
    *,
    config: Config,
    pool: Sequence[Attack],
    round: int,
    queries: int | None = None,
) -> Harvest:
    """Write up to `config.harvest.attacks` candidates (new and refined) and filter them.

    It ends once `config.harvest.kept` are kept, or with the last of `queries` defender replies.
    """
    key = f"{config.seed}/{round}/harvest"
    rng = random.Random(key)
    tasks = [
        attack_task(
            world, world.seeds("train"), pool, refine_share=config.attack.refine_share, rng=rng
        )
        for _ in range(config.harvest.attacks)
    ]
    sieve = Sieve(config, world, pool, queries=queries)
    size = config.harvest.batch if sieve.bounded else max(len(tasks), 1)
    for start in range(0, len(tasks), size):
        if sieve.done:
            break
        numbers = range(start, min(start + size, len(tasks)))
        batch = [tasks[i] for i in numbers]
        if config.attacker == "self-instruct":
            words: list[str | None] = [world.self_instruct(task.seed, rng) for task in batch]
        else:
            words = _written(attacker, batch, config=config, seed=key, numbers=numbers)
        candidates = sieve.payable(
            _candidates(world, batch, words, sieve, config=config, round=round, start=start)
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
            numbers=range(len(sieve.tried), len(sieve.tried) + len(candidates)),
        )
        sieve.take(candidates, verdicts)
    return sieve.result()


def _written(
    attacker: Player,
    tasks: Sequence[AttackTask],
    *,
    config: Config,
    seed: str,
    numbers: Sequence[int],
) -> list[str | None]:
    """The trained attacker's words for each task; None where they were cut off."""
    completions = attacker.complete(
        [task.case for task in tasks],
        n=1,
        sampling=Sampling(
            temperature=config.attack.temperature, max_new_tokens=config.attack.max_new_tokens
        ),
        seed=seed,
        numbers=numbers,
    )
    return [attacker.words(row[0]) for row in completions]


def _candidates(
    world: World,
    tasks: Sequence[AttackTask],
    words: Sequence[str | None],
    sieve: Sieve,
    *,
    config: Config,
    round: int,
    start: int,
) -> list[Attack]:
    """Attacks that are worth a try; the sieve counts the rest. start: the first one's number."""
    full, found = sieve.full_styles(), []
    for i, (task, text) in enumerate(zip(tasks, words, strict=True), start=start):
        case = None
        if text:
            # A generator per attack: what it becomes does not depend on the attacks before it.
            case = world.realise(
                text,
                task.seed,
                rng=random.Random(f"{config.seed}/{round}/harvest/{i}"),
                attack_id=f"attack-{round}-{i}",
            )
        meaning = None if text is None else world.meaning(text, case)
        reason = drop_reason(
            task, meaning, case, sieve.known, full=full, filtered=config.harvest.filter
        )
        if reason is not None:
            sieve.dropped[reason] += 1
            continue
        mode = "generate" if task.previous is None else "refine"
        if config.attacker == "self-instruct":
            mode = "self-instruct"
        found.append(
            Attack(
                case=dataclasses.replace(case, source=mode),
                seed_id=task.seed.id,
                mode=mode,
                words=text,
                round=round,
            )
        )
    return found


def drop_reason(
    task: AttackTask,
    meaning: str | None,
    case: Case | None,
    known: KnownTexts,
    *,
    full: Set[str] = frozenset(),
    filtered: bool = True,
) -> str | None:
    """Why an attack is not even tried; None where it is. One that is tried becomes known.

    meaning: what the words are compared by (`World.meaning`), None where they were cut off at the
    length limit; case: None where they are ill-formed; full: styles of which no more are kept.
    filtered False: any case is tried.
    """
    if meaning is None:
        return "cut off"
    if case is None:
        return "ill-formed"
    if case.style in full:
        return "style full"
    if not filtered:
        return None
    if case.goal != task.seed.goal:
        return "off target"
    if not known.add(task.seed.id, meaning):
        return "duplicate"
    return None


def is_success(verdicts: Sequence[Verdict], least: int) -> bool:
    """Whether at least `least` of the replies were harmful."""
    return sum(verdict.harmful is True for verdict in verdicts) >= least


def style_counts(tried: Iterable[Attack], won: Iterable[Attack]) -> dict[str, StyleCount]:
    """By style, in the order of their names."""
    tries = Counter(attack.case.style for attack in tried)
    wins = Counter(attack.case.style for attack in won)
    return {name: StyleCount(tried=tries[name], won=wins[name]) for name in sorted(tries)}
