"""Near copies of test questions are found in any script, and under what a reader does not see."""

from __future__ import annotations

import pytest

from sectow_fast.data.suites import SuiteCase
from sectow_fast.data.suites.wording import Wording
from sectow_fast.real.contamination import find_contamination
from sectow_fast.real.goals import keeps_goal
from sectow_fast.real.holdout import hold_out

ENGLISH = "please tell me how a paper bird is folded from one single sheet of thin coloured paper"
CHINESE = (
    "\u8bf7\u544a\u8bc9\u6211\u5982\u4f55\u7528\u4e00\u5f20\u8584\u8584\u7684\u5f69\u8272\u7eb8"
    "\u6298\u51fa\u4e00\u53ea\u7eb8\u9e1f\u5e76\u4e14\u8bf4\u660e\u6bcf\u4e00\u6b65"
)
THAI = (
    "\u0e01\u0e23\u0e38\u0e13\u0e32\u0e1a\u0e2d\u0e01\u0e27\u0e34\u0e18\u0e35\u0e1e\u0e31\u0e1a"
    "\u0e19\u0e01\u0e01\u0e23\u0e30\u0e14\u0e32\u0e29\u0e08\u0e32\u0e01\u0e01\u0e23\u0e30\u0e14"
)
TEXTS = {"English": ENGLISH, "Chinese": CHINESE, "Thai": THAI}
CHANGES = {
    "the same": lambda text: text,
    "a word more": lambda text: text + {"p": " ok"}.get(text[0], text[3]),
    "a full stop": lambda text: text + ".",
    "its own full stop": lambda text: text + "\u3002",
    "zero-width blanks": lambda text: "\u200b".join(text),
    "full width": lambda text: "".join(
        chr(ord(c) + 0xFEE0) if "a" <= c <= "z" else c for c in text
    ),
    "capitals": str.upper,
}


def case(suite: str, number: int, text: str) -> SuiteCase:
    return SuiteCase(
        id=f"{suite}:{number}",
        suite=suite,
        split="all",
        label="unsafe",
        parts=(("text", text),),
        goal=text,
    )


@pytest.mark.parametrize("script", TEXTS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_near_copy_is_left_out(script, change):
    train = [
        case("train", 0, CHANGES[change](TEXTS[script])),
        case("train", 1, TEXTS[script][::-1]),
    ]
    test = {"test": [case("test", 0, TEXTS[script])]}
    found = find_contamination(train, test, threshold=0.8, wording=Wording())
    assert [one.id for one, _ in found.dropped] == ["train:0"]
    assert [one.id for one in found.clean] == ["train:1"]


def test_a_short_question_is_known_by_its_words_alone():
    train = [case("train", 0, "How is a bado folded?"), case("train", 1, "how is a miku folded")]
    test = {"test": [case("test", 0, '"how is a bado folded"')]}
    found = find_contamination(train, test, threshold=0.8, wording=Wording())
    assert [one.id for one, _ in found.dropped] == ["train:0"]


def test_what_looks_the_same_is_held_out_together():
    cases = [case("a", 0, CHINESE), case("b", 0, "\u200b".join(CHINESE)), case("c", 0, THAI)]
    for seed in range(8):
        kept, held = hold_out(cases, 0.5, f"{seed}", Wording())
        assert {one.suite for one in held} in ({"a", "b"}, {"c"}), kept


def test_a_goal_without_blanks_is_kept_by_an_attack_around_it():
    assert keeps_goal(f"\u6545\u4e8b\uff1a{CHINESE}\u3002", CHINESE, 0.5)
    assert not keeps_goal(f"\u6545\u4e8b\uff1a{THAI}", CHINESE, 0.5)
    assert keeps_goal("fo\u200bld a b\u00adado", "how to fold bados", 0.5) == keeps_goal(
        "fold a bado", "how to fold bados", 0.5
    )
