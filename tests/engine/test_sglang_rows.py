"""Requests and rows between trainer and SGLang: pure functions, no SGLang is needed."""

from __future__ import annotations

import queue

import pytest

from sectow_fast.engine.sglang_rows import Request, Row, Wanted, by_prompt, problem

END = 1
GOOD = dict(ids=(5, 6, END), logprobs=(-0.1, -0.2, -0.3), reason="stop", version="defender:3")


def request(rid: str, key: tuple[int, int], ids: tuple[int, ...], pixels=None) -> Request:
    sampling = {"sampling_seed": key[1]}
    return Request(
        rid=rid, key=key, ids=ids, pixels=pixels, sampling=sampling, rows=queue.SimpleQueue()
    )


def found(**changed) -> str | None:
    row = Row(request=request("r1", (0, 0), (7,)), **(GOOD | changed))
    return problem(row, eos_id=END, limit=4, label="defender:3")


def test_a_sound_row_has_no_problem():
    assert found() is None
    assert found(ids=(5, 6, 7, 8), logprobs=(-0.1,) * 4, reason="length") is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"reason": "abort"}, "finish reason 'abort'"),
        ({"reason": None}, "finish reason None"),
        ({"logprobs": (-0.1,)}, "3 tokens with 1 log-probs"),
        ({"ids": (), "logprobs": ()}, "0 tokens with 0 log-probs"),
        ({"reason": "length"}, "3 tokens, cut by length, expected 4"),
        ({"ids": (5, 6, 7)}, "a stop at token 7, expected the end token 1"),
        ({"version": "defender:2"}, "weights 'defender:2', expected 'defender:3'"),
        ({"version": None}, "weights None"),
    ],
)
def test_a_row_that_is_no_sample_of_the_wanted_weights_says_why(changed, words):
    assert words in found(**changed)


def test_weights_are_labelled_by_player_and_version():
    assert Wanted(name="round-0", version=2, weights=lambda: []).label == "round-0:2"


def test_samples_of_one_prompt_travel_together_with_its_pixels_once():
    first, second, pixels = (3, 4), (3, 4), {"pixel_values": object()}
    asked = [
        request("r1", (0, 0), first, pixels),
        request("r2", (0, 1), first, pixels),
        request("r3", (1, 0), second),
    ]
    rows = by_prompt(asked)
    assert [(ids, [rid for rid, _ in samples]) for ids, _, samples in rows] == [
        ([3, 4], ["r1", "r2"]),
        ([3, 4], ["r3"]),
    ]
    assert rows[0][1] is pixels and rows[1][1] is None
    assert rows[0][2][1] == ("r2", {"sampling_seed": 1})
    assert by_prompt([]) == []
