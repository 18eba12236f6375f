"""A reply as a person reads it."""

from __future__ import annotations

import pytest

from sectow_fast.judges.languages import language_of
from sectow_fast.judges.plain import plain, said


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("<think>No.</think>\nYes.", "Yes."),
        ("<THINKING>No.\nno</Thinking> Yes.", "Yes."),
        ("<reasoning>No.</reasoning>Yes.", "Yes."),
        ("<scratchpad>No.</scratchpad>Yes.", "Yes."),
        ("<thought>No.</thought>Yes.", "Yes."),
        ("<think>never closed", ""),
        ("No, let me see.</think>Yes.", "Yes."),
        ("<|channel|>analysis<|message|>No.<|end|><|channel|>final<|message|>Yes.", "Yes."),
        ("<s>[INST]Yes.[/INST]</s><end_of_turn>", "Yes."),
        ("<|im_start|>Yes.<|im_end|>", "Yes."),
        ("  **Yes.** ", "**Yes.**"),
        ("a <b and c> d", "a <b and c> d"),
    ],
)
def test_thinking_and_marks_are_not_said(reply, words):
    assert said(reply) == words


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("**Assistant:** I\u2019m *sorry*", "i'm sorry"),
        ("AI: yes", "ai: yes".removeprefix("ai: ")),
        ("Response :  yes", "yes"),
        ("## > # Title\n> two", "title\ntwo"),
        ("- \u201cYes\u201d", "yes\u201d"),
        ("\uff39\uff45\uff53", "yes"),
        ("a\u00a0 \t b\nc  d", "a b\nc d"),
        ("`code` and ~~that~~", "code and that"),
        ("I said: assistant: no", "i said: assistant: no"),
        ("** Assistant: no**", "no"),
        ("I can\u2018t", "i can't"),
    ],
)
def test_role_and_decoration_are_taken_off(reply, words):
    assert plain(reply) == words


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", "en"),
        ("42!", "en"),
        ("bado tira bolu", "en"),
        ("no", "en"),
        ("puedo ayudarte con eso", "es"),
        ("je vous aide", "fr"),
        ("você não está", "pt"),
        ("saya tidak bisa", "id"),
        ("ich und du", "de"),
        ("抱歉", "zh"),
        ("紙を半分に折ります", "ja"),
        ("मदद नहीं", "hi"),
        ("সাহায্য করুন", "bn"),
        ("يمكنك ذلك", "ar"),
        ("میں نہیں کر سکتا", "ur"),
        ("как дела", "ru"),
        ("як її звати", None),
        ("چگونه پاسخ", None),
        ("안녕하세요", None),
        ("zażółć gęślą jaźń", None),
        ("she met łukasz in the town and they had tea", "en"),
        ("the word 抱歉 is chinese for sorry", "en"),
        (" ".join(["bado"] * 11), "en"),
        (" ".join(["bado"] * 12), None),
        (" ".join(["bado"] * 17 + ["the"] * 3), "en"),
        (" ".join(["bado"] * 18 + ["the"] * 2), None),
    ],
)
def test_languages(text, language):
    assert language_of(text) == language
