"""Attack styles that are registered: what is drawn, shown, held out, and what is refused."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from sectow_fast.config import SandboxConfig
from sectow_fast.data.sandbox import (
    Carrier,
    ClothesKind,
    SandboxWorld,
    register_carrier,
    register_clothes,
)
from sectow_fast.data.sandbox.carriers import CARRIERS
from sectow_fast.data.sandbox.clothes import CLOTHES
from sectow_fast.data.sandbox.lessons import Lessons
from sectow_fast.data.sandbox.requests import attack_words
from sectow_fast.data.sandbox.styles import leak_probability
from sectow_fast.types import UserError

CONFIG = SandboxConfig(suite_size=40)


def block(draw, thing, rng):
    draw.rectangle((2, 2, 4 + thing.number % 20, 8 + rng.randrange(4)), fill=(250, 250, 250))


BLOCK = Carrier(
    name="block",
    write=lambda thing: f"<block> {thing.name}",
    show=lambda thing: "shown",
    paint=block,
    leak=0.3,
    twins=1,
)
RHYME = ClothesKind(
    name="rhyme",
    opening="sing",
    train_strong=("one two three four",),
    train_weak=("hey",),
    test_strong=("five six",),
    test_weak=("ho ho",),
)


@pytest.fixture(autouse=True)
def _forgotten():
    with CARRIERS.temporarily(), CLOTHES.temporarily():
        yield


def made(seed: int = 3) -> SandboxWorld:
    return SandboxWorld(seed=seed, config=CONFIG)


def test_a_carrier_with_a_picture_is_painted_the_same_for_the_same_key():
    register_carrier(BLOCK)
    world = made()
    seed = world.seeds("train")[0]
    case = world.realise(f"<block> {seed.goal}", seed, rng=random.Random(0), attack_id="a")
    assert case is not None and case.image is not None and case.text.endswith("shown")
    picture = np.asarray(world.images.open(case.image))
    assert np.array_equal(picture, np.asarray(made().images.open(case.image)))
    assert picture[4, 3].mean() > 200 > 80 > picture[20:, 26:].mean()
    twins = [Lessons(world=world).twin(random.Random(i))[0].image or "" for i in range(60)]
    assert any(key.startswith("block/") for key in twins)


def test_an_unknown_picture_is_refused_with_every_kind_there_is():
    world = made()
    with pytest.raises(UserError, match=r"'block/0/0': .* draw/NUMBER/VARIANT or typo/\.\.\. with"):
        world.images.open("block/0/0")
    register_carrier(BLOCK)
    with pytest.raises(UserError, match=r"block/NUMBER/VARIANT or draw/\.\.\. or typo/\.\.\. with"):
        made().images.open("block/100000/0")


def test_a_world_keeps_the_styles_it_was_built_with():
    before = made()
    words = before.requests.vocabulary()
    register_carrier(BLOCK)
    assert before.requests.vocabulary() == words and "<block>" not in words
    # New words come last: the token ids of the others stay.
    assert made().requests.vocabulary() == [*words, "<block>"]


def test_a_carrier_held_out_with_everything_is_in_its_suites_alone():
    register_carrier(replace(BLOCK, held_out_with=frozenset({None, *CLOTHES.names()})))
    world = made()
    data = [*world.train_cases("harmless"), *world.train_cases("unsafe"), *world.harmless_probe()]
    assert not [case for case in data if "block" in case.style]
    rng, seed = random.Random(0), world.seeds("train")[0]
    assert not [1 for _ in range(2000) if "<block>" in world.self_instruct(seed, rng)]
    assert world.realise(f"<block> {seed.goal}", seed, rng=rng, attack_id="a") is None
    styles = {case.style for case in world.suites()["carrier-block"]}
    assert styles == {"block", *(f"block+{kind}" for kind in CLOTHES.names())}


def test_clothes_from_outside_are_worn_read_and_tested():
    register_clothes(RHYME)
    world = made()
    assert {"sing", "three", "ho"} <= set(world.requests.vocabulary())
    rng, seed = random.Random(0), world.seeds("train")[0]
    said = [world.self_instruct(seed, rng) for _ in range(2000)]
    sung = [words for words in said if words.startswith("sing")]
    assert sung and not [w for w in sung if "five" in w or " ho " in w]
    for words in sung:
        case = world.realise(words, seed, rng=rng, attack_id="a")
        assert case is not None and case.goal == seed.goal and case.style.endswith("+rhyme")
    for kept in ("sing five six", "sing ho ho"):
        assert world.realise(f"{kept} {seed.goal}", seed, rng=rng, attack_id="a") is None
    suite = world.suites()["clothes-rhyme"]
    assert {case.style for case in suite} == {"text+rhyme"}
    assert all(case.text.startswith("sing five six ") for case in suite)
    assert world.measures["clothes-rhyme"] == "asr"


def test_what_leaks_is_on_the_carrier():
    kind = CLOTHES.get("role")
    strong, weak = kind.wordings("train", strong=True)[0], kind.wordings("train")[-1]
    carrier = replace(BLOCK, leak=0.3, leak_dressed=0.7)
    found = [leak_probability(carrier, worn) for worn in (None, strong, weak)]
    assert found == [0.3, 0.7, 0.05]


def test_every_wording_of_clothes_is_in_exactly_one_split():
    for name in CLOTHES.names():
        kind = CLOTHES.get(name)
        train, test = kind.wordings("train"), kind.wordings("test")
        assert {*train, *test} == {*kind.wordings("every")} and not {*train} & {*test}
        assert (len(train), len(test)) == (10, 4)
        assert all(one.strong for one in kind.wordings("every", strong=True))
        assert len(kind.wordings("every", strong=True)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "typo"}, r"carrier 'typo': found the name taken"),
        ({"name": "a/b"}, r"carrier 'a/b': found a name that"),
        ({"leak": 1.5}, r"carrier 'block': found leak 1.5, expected a share from 0 to 1"),
        ({"leak_dressed": -1}, r"found leak_dressed -1"),
        ({"weight": -0.1}, r"found weight -0.1, expected 0 or more"),
        ({"held_out_with": frozenset({"rolle"})}, r"held_out_with: found 'rolle'.*mean role\?"),
    ],
)
def test_a_carrier_that_cannot_be_is_refused(change, message):
    names = CARRIERS.names()
    with pytest.raises(UserError, match=message):
        register_carrier(replace(BLOCK, **change))
    assert CARRIERS.names() == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "role"}, r"clothes 'role': found the name taken"),
        ({"name": "rhyme+"}, r"clothes 'rhyme\+': found a name that is empty or has"),
        ({"opening": " "}, r"clothes 'rhyme': found an empty opening"),
        ({"test_weak": ()}, r"clothes 'rhyme': found no wording in test_weak"),
        ({"test_weak": ("hey",)}, r"clothes 'rhyme': found the wording 'sing hey' again"),
        ({"opening": "pretend", "test_weak": ("king crown",)}, r"'pretend king crown' again"),
    ],
)
def test_clothes_that_cannot_be_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        register_clothes(replace(RHYME, **change))
    assert CLOTHES.names() == ["role", "persuasion", "template"]


def test_stray_spaces_in_a_wording_are_of_no_matter():
    spaced = replace(RHYME, opening=f" {RHYME.opening} ", test_weak=("ho  ho ",))
    assert spaced.wordings("every")[-1].words == f"{RHYME.opening} ho ho"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda thing: thing.name, r"carrier 'block': found '\w+' written for .*'text' writes"),
        (lambda thing: f"<block> {thing.colour}", r"expected words that mean one object alone"),
        (lambda thing: " ", r"carrier 'block': found '' written for .*no words"),
    ],
)
def test_words_that_do_not_mean_one_object_are_refused_when_a_world_is_built(write, message):
    register_carrier(replace(BLOCK, write=write))
    with pytest.raises(UserError, match=message):
        made()


def test_attack_words_put_clothes_first():
    world = made()
    thing, worn = world.requests.things[0], CLOTHES.get("role").wordings("train")[0]
    assert attack_words(thing, CARRIERS.get("typo"), worn) == (
        f"pretend captain pirate <typo> {thing.name}"
    )
