"""What the two roles are asked in a step of training: pure draws from a generator."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sectow_fast.native import PrioritySampler
from sectow_fast.protocols import World
from sectow_fast.types import Attack, AttackTask, Case, DefendTask


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

    def draw(self, count: int, *, step: int) -> list[int]:
        """Places of `count` cases; all different, as far as there are as many."""
        drawn: list[int] = []
        while len(drawn) < count:
            size = min(count - len(drawn), len(self.cases))
            # Each turn through a small source is a draw of its own.
            turn = (step << 16) + len(drawn)
            drawn += self.priorities.sample(size, step=turn).tolist()
        return drawn

    def update(self, place: int, rewards: Sequence[float]) -> None:
        """Count what a case earned, rewards 0..1."""
        self.priorities.update([place], successes=[sum(rewards)], trials=[len(rewards)])


def defend_sources(
    world: World, pool: Sequence[Attack], *, key: str, exploration: float
) -> dict[str, Source]:
    """Harmless data, existing unsafe data, and, where any was kept, the pool of attacks.

    The pool is drawn by style and then by case: a style that won often must not crowd out the rest.
    """
    sources = {
        name: Source(world.train_cases(name), key=key, exploration=exploration)
        for name in ("harmless", "unsafe")
    }
    attacks = [attack.case for attack in pool]
    if attacks:
        styles = sorted({case.style for case in attacks})
        strata = [styles.index(case.style) for case in attacks]
        sources["pool"] = Source(attacks, key=key, exploration=exploration, strata=strata)
    return sources


def defend_tasks(
    sources: Mapping[str, Source],
    *,
    count: int,
    harmless_share: float,
    pool_share: float,
    step: int,
    rng: random.Random,
) -> list[DefendTask]:
    """`count` requests: harmless with probability `harmless_share`, and of the unsafe ones from the
    pool with probability `pool_share` where there is a pool."""

    def source() -> str:
        if rng.random() < harmless_share:
            return "harmless"
        if "pool" in sources and rng.random() < pool_share:
            return "pool"
        return "unsafe"

    wanted = Counter(source() for _ in range(count))
    return [
        DefendTask(case=sources[name].cases[place], source=name, place=place)
        for name in sorted(wanted)
        for place in sources[name].draw(wanted[name], step=step)
    ]
