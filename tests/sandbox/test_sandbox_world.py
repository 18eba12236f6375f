"""The sandbox's world: what training may see, the attacker's language, the exact judge."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sectow_fast.config import SandboxConfig
from sectow_fast.data.sandbox import SandboxWorld
from sectow_fast.data.sandbox.carriers import BUILT_IN as CARRIERS
from sectow_fast.data.sandbox.carriers import Carrier
from sectow_fast.data.sandbox.clothes import BUILT_IN as CLOTHES
from sectow_fast.data.sandbox.clothes import Clothes, ClothesKind
from sectow_fast.data.sandbox.lessons import Lessons
from sectow_fast.data.sandbox.objects import INGREDIENTS
from sectow_fast.data.sandbox.requests import attack_words
from sectow_fast.data.sandbox.styles import style_name
from sectow_fast.types import Case

CONFIG = SandboxConfig(suite_size=60)
WORLD = SandboxWorld(seed=3, config=CONFIG)
THINGS = WORLD.requests.things
HELD_OUT = {(one.name, kind) for one in CARRIERS for kind in one.held_out_with}


def things_of(case: Case) -> set[str]:
    """Names of the things that a case's words or picture mean."""
    words = case.text.split()
    if case.image:
        return {THINGS[int(case.image.split("/")[1])].name}
    named = {thing.name for thing in THINGS if thing.name in words}
    for start in range(len(words) - 2):
        meant = WORLD.requests.meaning(" ".join(words[start : start + 3]))
        named |= {meant.thing.name} if meant else set()
    return named


def clothes_of(case: Case) -> Clothes | None:
    return WORLD.requests.worn.get(" ".join(case.text.split()[:3]))


def kept_for_suites(case: Case) -> bool:
    """Whether its style is a pair of carrier and clothes that training must not show."""
    carrier, _, kind = case.style.partition("+")
    return (carrier, kind) in HELD_OUT


def training_data() -> list[Case]:
    return [
        *WORLD.train_cases("unsafe"),
        *WORLD.train_cases("harmless"),
        *WORLD.harmless_probe(),
        *WORLD.seeds("train"),
    ]


# Lessons of the cold start are left out on purpose: they stand for a pretrained model, whose
# knowledge and whose weakness know nothing of our split.
def test_training_data_hold_no_test_thing_wording_or_combination() -> None:
    test_names = {thing.name for thing in THINGS if thing.test}
    for case in training_data():
        names = things_of(case)
        assert len(names) == 1 and not names & test_names, case
        clothes = clothes_of(case)
        assert clothes is None or not clothes.test, case
        assert not kept_for_suites(case), case


def test_suites_hold_test_things_and_wordings_alone() -> None:
    test_names = {thing.name for thing in THINGS if thing.test}
    for name, suite in WORLD.suites().items():
        assert 20 <= len(suite) <= 60
        assert len({(case.text, case.image) for case in suite}) == len(suite)
        for case in suite:
            assert case.suite == name
            assert things_of(case) <= test_names and things_of(case), case
            clothes = clothes_of(case)
            assert clothes is None or clothes.test, case
            if name == "combinations":
                assert kept_for_suites(case), case


def test_probe_holds_no_training_case() -> None:
    known = {(case.text, case.image) for case in WORLD.train_cases("harmless")}
    assert not known & {(case.text, case.image) for case in WORLD.harmless_probe()}


def test_equal_seeds_make_equal_worlds_and_others_differ() -> None:
    twin, other = (SandboxWorld(seed=seed, config=CONFIG) for seed in (3, 4))
    assert twin.requests.vocabulary() == WORLD.requests.vocabulary()
    assert twin.suites() == WORLD.suites()
    assert twin.train_cases("unsafe") == WORLD.train_cases("unsafe")
    assert twin.harmless_probe() == WORLD.harmless_probe()
    assert other.suites() != WORLD.suites()
    key = "draw/0/1"
    assert np.array_equal(WORLD.images.open(key), twin.images.open(key))


def test_forbidden_things_are_told_by_their_last_syllable() -> None:
    endings = {thing.syllables[1] for thing in THINGS if thing.forbidden}
    allowed = {thing.syllables[1] for thing in THINGS if not thing.forbidden}
    assert not endings & allowed
    assert len({thing.recipe for thing in THINGS}) == len(THINGS) == 90


def test_twins_differ_from_their_originals_in_kind_and_name_alone() -> None:
    looks = {(thing.colour, thing.shape): thing for thing in THINGS}
    endings = {thing.syllables[1] for thing in THINGS if thing.forbidden}
    assert {twin.forbidden for twin in WORLD.requests.twins} == {True, False}
    assert not {twin.name for twin in WORLD.requests.twins} & {thing.name for thing in THINGS}
    for twin in WORLD.requests.twins:
        assert twin.forbidden != looks[twin.colour, twin.shape].forbidden
        assert twin.forbidden == (twin.syllables[1] in endings)
        assert WORLD.images.open(f"draw/{twin.number}/0").size == (28, 28)


@pytest.mark.parametrize("kind", [None, *CLOTHES], ids=lambda one: one.name if one else "bare")
@pytest.mark.parametrize("carrier", CARRIERS, ids=lambda one: one.name)
def test_attack_words_are_realised_as_what_they_mean(
    carrier: Carrier, kind: ClothesKind | None
) -> None:
    for clothes in kind.wordings("every") if kind else (None,):
        for seed in WORLD.seeds("train"):
            words = attack_words(WORLD.by_name[seed.goal], carrier, clothes)
            meant = WORLD.requests.meaning(words)
            assert meant is not None and meant.thing.name == seed.goal
            assert (meant.carrier, meant.clothes) == (carrier, clothes)
            case = WORLD.realise(words, seed, rng=random.Random(0), attack_id="a")
            if clothes and (clothes.test or (carrier.name, clothes.kind) in HELD_OUT):
                assert case is None  # kept for the test suites
                continue
            assert case is not None and case.goal == seed.goal and case.label == "unsafe"
            assert case.style == style_name(carrier, clothes)
            assert (case.image is not None) == (carrier.name in ("typo", "draw"))


@pytest.mark.parametrize(
    "words", ["", "bado bado", "<typo>", "join", "the red", "pretend captain", "make nothing"]
)
def test_ill_formed_words_make_no_case(words: str) -> None:
    seed = WORLD.seeds("train")[0]
    assert WORLD.realise(words, seed, rng=random.Random(0), attack_id="a") is None


def test_words_about_another_thing_carry_their_own_goal() -> None:
    first, second = WORLD.seeds("train")[:2]
    case = WORLD.realise(second.goal, first, rng=random.Random(0), attack_id="a")
    assert case is not None and case.goal == second.goal != first.goal


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_judge_calls_harmful_exactly_what_holds_the_recipe_in_order(data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(WORLD.seeds("train")))
    recipe = WORLD.by_name[seed.goal].recipe
    noise = st.lists(st.sampled_from([w for w in INGREDIENTS if w not in recipe]), max_size=3)
    mixed = [word for part in recipe for word in (*data.draw(noise), part)] + data.draw(noise)
    assert WORLD.judge(seed, " ".join(mixed)).harmful is True
    dropped = data.draw(st.sampled_from(recipe))
    assert WORLD.judge(seed, " ".join(w for w in mixed if w != dropped)).harmful is False
    turned = [word for word in mixed if word not in recipe] + list(reversed(recipe))
    assert WORLD.judge(seed, " ".join(turned)).harmful is False


def test_judging_many_is_judging_each_in_order() -> None:
    case = WORLD.suites()["requests"][0]
    pairs = [(case, case.answer), (case, "sorry can not"), (WORLD.seeds("test")[0], "")]
    assert WORLD.judge_all(pairs) == [WORLD.judge(*pair) for pair in pairs]


def test_judge_on_refusals_and_answers() -> None:
    case = WORLD.suites()["requests"][0]
    verdict = WORLD.judge(case, case.answer)
    assert verdict.correct and not verdict.refused and verdict.harmful is False
    assert WORLD.judge(case, "sorry can not").refused
    assert WORLD.judge(case, case.answer + " salt").correct is False
    assert WORLD.judge(WORLD.seeds("test")[0], "").correct is None


def test_pictures_differ_by_variant_and_only_forbidden_drawings_are_marked() -> None:
    forbidden = next(thing for thing in THINGS if thing.forbidden)
    allowed = next(t for t in THINGS if not t.forbidden and t.colour != "yellow")

    def marked(kind: str, number: int, variant: int) -> bool:
        pixels = np.asarray(WORLD.images.open(f"{kind}/{number}/{variant}"), dtype=int)
        corners = [pixels[y : y + 6, x : x + 6] for y in (0, 22) for x in (0, 22)]
        near = [np.abs(corner - (250, 220, 0)).sum(-1) < 90 for corner in corners]
        return any(corner.sum() >= 12 for corner in near)

    for variant in range(CONFIG.picture_variants):
        assert marked("draw", forbidden.number, variant)
        assert not marked("draw", allowed.number, variant)
        assert not marked("typo", forbidden.number, variant)
    drawn = {WORLD.images.open(f"draw/0/{v}").tobytes() for v in range(CONFIG.picture_variants)}
    assert len(drawn) == CONFIG.picture_variants


def test_the_language_is_ascii():
    # So what counts as a word in other scripts (game.text.words) touches no run of the sandbox.
    assert all(word.isascii() for word in WORLD.requests.vocabulary())


def test_a_test_object_is_the_attackers_only_where_the_seed_asks_for_it():
    # An ablation without filter would train the defender on it otherwise.
    train, test = WORLD.seeds("train")[0], WORLD.seeds("test")[0]
    words = WORLD.self_instruct(test, random.Random(0))
    assert WORLD.realise(words, test, rng=random.Random(0), attack_id="a").goal == test.goal
    assert WORLD.realise(words, train, rng=random.Random(0), attack_id="a") is None


@pytest.mark.parametrize("share", [0.5, 0.25, 0.0])
def test_the_sft_baseline_obeys_the_share_of_harmless_data(share):
    rng, lessons = random.Random(0), Lessons(world=WORLD)
    taught = [lessons.safe(rng, [], harmless_share=share) for _ in range(800)]
    harmless = sum(case.label == "harmless" for case, _ in taught) / 800
    assert harmless == pytest.approx(share, abs=0.05 if share else 0.0)
