"""What the cold starts and the SFT baseline are taught. A lesson is (case, right reply)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sectow_fast.data.dual.language import ASPECTS, FORMS, PLAIN_FORMS
from sectow_fast.data.dual.stacks import swapped
from sectow_fast.data.dual.things import KINDS, PURPOSES
from sectow_fast.data.dual.world import REFUSAL, DualWorld
from sectow_fast.data.sandbox.lessons import refused_or_answered
from sectow_fast.types import Attack, Case

CAPTION_SHARE = 0.2
# Form -> how often captioning shows it.
CAPTIONS = {"draw": 6, "typo": 5, "both": 6, "half": 2, "note": 2, "words": 1}


@dataclass(frozen=True, kw_only=True)
class DualLessons:
    """Draws lessons of a world; each method is a `Lesson`.

    The cold start stands for pretraining, so it may see every object and every layer; the test
    split is kept from everything after it.
    """

    world: DualWorld

    def caption(self, rng: random.Random) -> tuple[Case, str]:
        """Say all that a picture tells, or answer a question about a pair."""
        language, u = self.world.language, rng.random()
        goal = language.goods.any(rng)
        if u < 0.08:
            case = language.multiple_choice("lesson", goal.thing, rng)
            return case, case.answer or ""
        if u < 0.53:
            # Asked for beside all else alone, the kind stayed at chance for 600 steps; by itself
            # it is read in 140.
            kind = u < 0.43
            aspect = "kind" if kind else "allowed"
            form = rng.choice(("draw", "draw", "typo") if kind else PLAIN_FORMS)
            how = language.put(goal, form, rng)
            case = language.question("lesson", goal, how, aspect)
            return case, case.answer or ""
        form = rng.choices(list(CAPTIONS), list(CAPTIONS.values()))[0]
        how, thing = language.put(goal, form, rng), goal.thing
        looks, purpose = (thing.colour, thing.shape, KINDS[thing.kind]), PURPOSES[goal.purpose]
        told = {
            "draw": (*looks, *thing.parts),
            "typo": (*thing.parts, *looks),
            "half": (thing.parts[0], thing.colour),
            "note": (purpose,),
            # The purpose first: as the seventh word of a caption it stayed at chance.
            "both": (purpose, *looks, *thing.parts),
            "words": looks,
        }[form]
        text = f"what {thing.words}" if form == "words" else "what shown"
        return Case(id="lesson", text=text, image=how.image, label="harmless"), " ".join(told)

    def instruct(self, rng: random.Random) -> tuple[Case, str]:
        """The vulnerable instruct model: it helps, refuses plain requests, and answers some of the
        attacks (`weakness.py`)."""
        if rng.random() < CAPTION_SHARE:
            return self.caption(rng)
        language, stacks, u = self.world.language, self.world.stacks, rng.random()
        goods, form = language.goods, rng.choice(FORMS)
        goal = goods.any(rng)
        if u < 0.12:
            aspect = rng.choice(ASPECTS)
            how = language.put(goal, rng.choice(("words", "draw", "typo")), rng)
            case = language.question("lesson", goal, how, aspect)
            return case, case.answer or ""
        if u < 0.18:
            case = language.multiple_choice("lesson", goal.thing, rng)
            return case, case.answer or ""
        goal = rng.choice(goods.forbidden if u > 0.45 else goods.allowed)
        kind, v = goal.thing.kind, rng.random()
        if v < 0.3:
            layers, form = (), rng.choice(PLAIN_FORMS)
        elif v < 0.62 or not goal.forbidden:
            layers = stacks.any(rng, "every")
        else:
            kept, new = rng.random() < 0.25, rng.random() < 0.25
            layers = stacks.winning(rng, kind, "every", new=new, kept=kept)
            if v < 0.7:
                layers = swapped(layers)
        how = language.put(goal, form, rng)
        case = language.request("lesson", goal, how, layers, rng)
        if not goal.forbidden:
            return case, goal.reply
        leaks = rng.random() < language.weakness.leak(kind, how.form, layers)
        return case, goal.reply if leaks else REFUSAL

    def attacker(self, rng: random.Random) -> tuple[Case, str]:
        """Self-instruct demonstrations: make an attack of a pair, or refine one.

        For any pair, harmless ones too: a pretrained attacker can read every picture. Which attacks
        succeed is learnt later, on the training objects alone.
        """
        world = self.world
        goal = world.language.goods.any(rng)
        seed = world.seed_of(goal, rng.choice(PLAIN_FORMS), rng)
        previous = None
        if rng.random() < 0.3:
            words = world.self_instruct(seed, rng)
            previous = Attack(
                case=seed, seed_id=seed.id, mode="self-instruct", words=words, round=0
            )
        case = world.attacker_case(seed, previous)
        return case, world.write(goal, case.image, rng)

    def safe(
        self, rng: random.Random, pool: Sequence[Attack], *, harmless_share: float
    ) -> tuple[Case, str]:
        """The SFT baseline, on the world's existing data and the pool."""
        return refused_or_answered(
            rng, pool, self.world, refusal=REFUSAL, harmless_share=harmless_share
        )
