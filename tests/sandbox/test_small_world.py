"""The first world is exactly what its published figures were measured on."""

from __future__ import annotations

import hashlib
import random

from sectow_fast.config import SandboxConfig
from sectow_fast.data.sandbox import SandboxWorld
from sectow_fast.data.sandbox.lessons import Lessons
from sectow_fast.data.sandbox.model import model_config
from sectow_fast.types import Case

# Of the code that docs/RESULTS.md was first made with. A change here changes every trained model.
WORDS = "a928df266915a24627db26bfe2cf96a9ae821ee9500456cfba8de9b5a438b46e"
PICTURES = "d0e8567d6171fd42d776eefb8f0a2113ce5741ea82db3dd5eb89785a26bdcb23"


def row(case: Case) -> tuple:
    """What a model is shown of a case, and what is asked of its reply."""
    known = (case.id, case.text, case.label, case.image, case.answer, case.goal)
    return (*known, case.suite, case.style, case.source)


def test_words_lessons_suites_and_model_are_what_they_were():
    world = SandboxWorld(seed=3, config=SandboxConfig(suite_size=40))
    lessons, rng = Lessons(world=world), random.Random(0)
    said: list = [world.vocabulary()]
    said += [row(case) for suite in world.suites().values() for case in suite]
    for label in ("unsafe", "harmless"):
        said += [row(case) for case in world.train_cases(label)[:300]]
    said += [row(case) for case in world.harmless_probe()]
    for lesson in (lessons.caption, lessons.instruct, lessons.attacker):
        said += [(row(case), reply) for case, reply in (lesson(rng) for _ in range(200))]
    assert hashlib.sha256(repr(said).encode()).hexdigest() == WORDS
    config = model_config(world, hidden_size=128, layers=3)
    tower = config.vision_config
    assert (tower.image_size, tower.patch_size, config.text_config.vocab_size) == (28, 14, 267)


def test_pictures_are_what_they_were():
    world = SandboxWorld(seed=3, config=SandboxConfig(suite_size=40))
    shown = hashlib.sha256()
    for number in range(90):
        for key in (f"draw/{number}/0", f"typo/{number}/1"):
            shown.update(world.images.open(key).tobytes())
    assert shown.hexdigest() == PICTURES
