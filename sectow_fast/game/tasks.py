"""What the two roles are asked in a step of training, drawn from a generator; what is written."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sectow_fast.native import PrioritySampler
from sectow_fast.protocols import World
from sectow_fast.types import Attack, AttackTask, Case, Completion, DefendTask


def attack_task(
    world: World,
    seeds: Sequence[Case],
    pool: Sequence[Attack],
    *,
    refine_share: float,
    rng: random.Random,
) -> AttackTask:
    """A seed, and with probability `refine_share` an attack on it to refine.

    While the pool has none on that seed, the attack to refine is the self-instruct attacker's.
    """
    seed = rng.choice(seeds)
    previous = None
    if rng.random() < refine_share:
        mine = [attack for attack in pool if attack.seed_id == seed.id]
        if mine:
            previous = rng.choice(mine)
        else:
            words = world.self_instruct(seed, rng)
            previous = Attack(
                case=seed, seed_id=seed.id, mode="self-instruct", words=words, round=0
            )
    case = world.attacker_case(seed, previous)
    # What the attacker's words become depends on the picture that it was given.
    return AttackTask(case=case, seed=replace(seed, image=case.image), previous=previous)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What the attacker wrote for one task. words: None where they were cut off; case: what the
    words make, None where they are ill-formed."""

    task: AttackTask
    completion: Completion
    words: str | None
    case: Case | None

    @property
    def faithful(self) -> bool:
        """Whether this is an attack that is still after its seed's goal."""
        return self.case is not None and self.case.goal == self.task.seed.goal


class Source:
    """Cases to draw from, the least certain first; a share `exploration` of the draws is uniform.

    A case that is always right or always wrong makes a group without a signal, so such cases are
    drawn less often (`PrioritySampler`). strata: a number per case; strata are drawn alike often.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        *,
        key: str,
        exploration: float,
        strata: list[int] | None = None,
    ) -> None:
        self.cases = cases
        seed = random.Random(key).getrandbits(64)
        self.priorities = PrioritySampler(
            len(cases), strata=strata, seed=seed, exploration=exploration
        )

    def draw(self, count: int, *, step: int, turn: int = 0) -> list[int]:
        """Places of `count` cases; all different, as far as there are as many."""
        drawn: list[int] = []
        while len(drawn) < count:
            size = min(count - len(drawn), len(self.cases))
            # Each pass through a small source is a draw of its own.
            number = (turn << 48) + (step << 16) + len(drawn)
            drawn += self.priorities.sample(size, step=number).tolist()
        return drawn

    def update(self, place: int, rewards: Sequence[float]) -> None:
        """Count what a case earned, rewards 0..1."""
        self.priorities.update([place], successes=[sum(rewards)], trials=[len(rewards)])


def defend_sources(
    world: World,
    pool: Sequence[Attack],
    *,
    key: str,
    exploration: float,
    past_share: float | None = None,
    round: int = 0,
) -> dict[str, Source]:
    """Harmless data, existing unsafe data, and, where any was kept, the pool of attacks.

    The pool is drawn by style and then by case: a style that won often must not crowd out the rest.
    past_share None: the pool is one source. Otherwise "pool" holds the attacks of `round`, and
    where the share is over 0, "past-K" those of each earlier round K.
    """
    sources = {
        name: Source(world.train_cases(name), key=key, exploration=exploration)
        for name in ("harmless", "unsafe")
    }
    found: dict[str, list[Case]] = {}
    for attack in pool:
        past = past_share is not None and attack.round < round
        if not past or past_share:
            name = f"past-{attack.round}" if past else "pool"
            found.setdefault(name, []).append(attack.case)
    for name, attacks in found.items():
        styles = sorted({case.style for case in attacks})
        strata = [styles.index(case.style) for case in attacks]
        sources[name] = Source(attacks, key=key, exploration=exploration, strata=strata)
    return sources


def defend_tasks(
    sources: Mapping[str, Source],
    *,
    count: int,
    harmless_share: float,
    pool_share: float,
    step: int,
    rng: random.Random,
    past_share: float = 0.0,
    turn: int = 0,
) -> list[DefendTask]:
    """`count` requests: harmless with probability `harmless_share`, and of the unsafe ones from the
    pool with probability `pool_share` where there is a pool.

    Of those from the pool a share of `past_share` is from earlier rounds, each alike often; all of
    them are where the present round kept nothing.
    """
    past = [name for name in sources if name.startswith("past-")]

    def source() -> str:
        if rng.random() < harmless_share:
            return "harmless"
        if ("pool" in sources or past) and rng.random() < pool_share:
            if past and ("pool" not in sources or rng.random() < past_share):
                return rng.choice(past)
            return "pool"
        return "unsafe"

    wanted = Counter(source() for _ in range(count))
    return [
        DefendTask(case=sources[name].cases[place], source=name, place=place)
        for name in sorted(wanted)
        for place in sources[name].draw(wanted[name], step=step, turn=turn)
    ]
