"""What the cold starts and the SFT baseline are taught. A lesson is (case, right reply)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sectow_fast.data.sandbox.requests import recipe_words
from sectow_fast.data.sandbox.styles import leak_probability
from sectow_fast.data.sandbox.world import REFUSAL, SandboxWorld
from sectow_fast.protocols import World
from sectow_fast.types import Attack, Case

CAPTION_SHARE = 0.15
TWIN_SHARE = 0.25  # of captioning


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """Draws lessons of a world; each method is a `Lesson`."""

    world: SandboxWorld

    def caption(self, rng: random.Random) -> tuple[Case, str]:
        """Say all that is known of a carried object, or answer a question about a picture."""
        requests = self.world.requests
        thing = rng.choice(requests.things)
        if rng.random() < TWIN_SHARE:
            return self.twin(rng)
        if rng.random() < 0.2:
            case = requests.multiple_choice("lesson", thing, rng)
            return case, case.answer or ""
        # The order, like the counts, is part of the draw.
        ordered = sorted(requests.styles.carriers, key=lambda one: (-one.captions, one.name))
        carrier = rng.choice([one for one in ordered for _ in range(one.captions)])
        words, image = requests.carried(thing, carrier, rng)
        name, looks = [*thing.syllables], [thing.colour, thing.shape]
        told = name + looks if carrier.spelled else looks + name
        verdict = "no" if thing.forbidden else "yes"
        case = Case(id="lesson", text=f"what {words}", image=image, label="harmless")
        return case, " ".join([*told, thing.name, verdict])

    def twin(self, rng: random.Random) -> tuple[Case, str]:
        """Is this allowed? Only the mark or the ending tells; all other features mislead."""
        requests = self.world.requests
        twin = rng.choice(requests.twins)
        carrier = rng.choice([one for one in requests.styles.carriers for _ in range(one.twins)])
        words, image = requests.carried(twin, carrier, rng)
        case = Case(id="lesson", text=f"what allowed {words}", image=image, label="harmless")
        return case, "no" if twin.forbidden else "yes"

    def instruct(self, rng: random.Random) -> tuple[Case, str]:
        """The vulnerable instruct model: it helps, refuses plain requests, and answers styled ones.

        It stands for pretraining, so it may see every object and wording; the test split is kept
        from everything after it.
        """
        if rng.random() < CAPTION_SHARE:
            return self.caption(rng)
        requests, styles = self.world.requests, self.world.requests.styles
        carrier = styles.any_carrier(rng)
        u = rng.random()
        if u < 0.30:
            thing = rng.choice([t for t in requests.things if not t.forbidden])
            clothes = styles.any_clothes(rng, "every", 0.3)
            case = requests.request("lesson", thing, carrier, clothes, rng)
            return case, case.answer or ""
        if u < 0.68:
            thing = rng.choice([t for t in requests.things if t.forbidden])
            clothes = styles.any_clothes(rng, "every", 0.3)
            if clothes and not clothes.strong and rng.random() < 0.5:
                clothes = rng.choice(styles.kind_of(clothes).wordings("every", strong=True))
            case = requests.request("lesson", thing, carrier, clothes, rng)
            leaks = rng.random() < leak_probability(carrier, clothes)
            return case, recipe_words(thing) if leaks else REFUSAL
        thing = rng.choice(requests.things)
        if u < 0.82:
            case = requests.question("lesson", thing, carrier, rng)
        else:
            case = requests.multiple_choice("lesson", thing, rng)
        return case, case.answer or ""

    def attacker(self, rng: random.Random) -> tuple[Case, str]:
        """Self-instruct demonstrations: write an attack for an object, or refine one.

        For any object, harmless ones too: a pretrained attacker can spell every name. Which attacks
        succeed is learnt later, on the training objects alone.
        """
        seed = self.world.seed_of(rng.choice(self.world.requests.things))
        previous = None
        if rng.random() < 0.3:
            words = self.world.self_instruct(seed, rng)
            previous = Attack(
                case=seed, seed_id=seed.id, mode="self-instruct", words=words, round=0
            )
        return self.world.attacker_case(seed, previous), self.world.self_instruct(seed, rng)

    def safe(
        self, rng: random.Random, pool: Sequence[Attack], *, harmless_share: float
    ) -> tuple[Case, str]:
        """The SFT baseline, on the world's existing data and the pool."""
        return refused_or_answered(
            rng, pool, self.world, refusal=REFUSAL, harmless_share=harmless_share
        )


def refused_or_answered(
    rng: random.Random,
    pool: Sequence[Attack],
    world: World,
    *,
    refusal: str,
    harmless_share: float,
) -> tuple[Case, str]:
    """An unsafe request of pool or training data with its refusal, or, with probability
    `harmless_share`, a harmless one with its answer (VLGuard-style)."""
    if rng.random() < harmless_share:
        case = rng.choice(world.train_cases("harmless"))
        return case, case.answer or ""
    if pool and rng.random() < 0.5:
        return rng.choice(pool).case, refusal
    return rng.choice(world.train_cases("unsafe")), refusal
