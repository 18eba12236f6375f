"""Requests and rows between trainer and SGLang: pure functions, no SGLang is needed."""

from __future__ import annotations

import queue
import sys
import types

import numpy as np
import pytest
import torch

from sectow_fast.engine import sglang_rows
from sectow_fast.engine.sglang_pixels import shared_images
from sectow_fast.engine.sglang_rows import Backlog, Request, Row, Wanted, messages, problem

END = 1
GOOD = dict(
    start=1, ids=(5, 6, END), logprobs=(-0.1, -0.2, -0.3), reason="stop", version="defender:3"
)


def request(rid: str, key: tuple[int, int], ids: tuple[int, ...], pixels=dict) -> Request:
    sampling = {"sampling_seed": key[1]}
    return Request(
        rid=rid, key=key, ids=ids, pixels=pixels, sampling=sampling, rows=queue.SimpleQueue()
    )


def found(**changed) -> str | None:
    row = Row(request=request("r1", (0, 0), (7,)), **(GOOD | changed))
    return problem(row, end_ids=(END,), limit=4, label="defender:3")


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
    assert Wanted(name="round-0", version=2, buckets=lambda device: []).label == "round-0:2"


def test_samples_of_one_prompt_travel_together_with_its_pixels_once():
    fetched = []

    def picture(number: int):
        def pixels():
            fetched.append(number)
            return {"pixel_values": torch.full((2, 3), number / 4, dtype=torch.bfloat16)}

        return pixels

    first, second = picture(1), picture(2)
    asked = [
        request("r1", (0, 0), (3, 4), first),
        request("r2", (0, 1), (3, 4), first),
        request("r3", (1, 0), (3, 4), second),
        request("r4", (2, 0), (5,), lambda: {}),
    ]
    ((rows),) = messages(asked)
    assert fetched == [1, 2]
    assert [(ids, [rid for rid, _ in samples]) for ids, _, samples in rows] == [
        ([3, 4], ["r1", "r2"]),
        ([3, 4], ["r3"]),
        ([5], ["r4"]),
    ]
    assert rows[0][2][1] == ("r2", {"sampling_seed": 1}) and rows[2][1] == {}
    dtype, shape, data = rows[1][1]["pixel_values"]
    back = torch.from_numpy(data).view(getattr(torch, dtype)).view(shape)
    assert torch.equal(back, torch.full((2, 3), 0.5, dtype=torch.bfloat16))
    assert list(messages([])) == []


def test_no_message_holds_more_pixels_than_its_share(monkeypatch):
    monkeypatch.setattr(sglang_rows, "MESSAGE_BYTES", 100)
    fetched = []

    def pixels(number: int):
        def fetch():
            fetched.append(number)
            return {"pixel_values": torch.ones(15)}  # 60 bytes

        return fetch

    asked = [request(f"r{i}", (i, 0), (i,), pixels(i)) for i in range(5)]
    made = messages(asked)
    assert [row[0] for row in next(made)] == [[0], [1]] and fetched == [0, 1]
    assert [[row[0] for row in rows] for rows in made] == [[[2], [3]], [[4]]]


def test_a_backlog_gives_whole_prompts_of_the_oldest_stream_first():
    backlog, made = Backlog(), []

    def stream(name: str, groups: int):
        for i in range(groups):
            made.append((name, i))
            yield [request(f"{name}{i}{j}", (i, j), (i,)) for j in range(2)]

    first, second = stream("a", 3), stream("b", 2)
    assert not backlog and backlog.take(5) == []
    backlog.add(first)
    backlog.add(second)
    assert [one.rid for one in backlog.take(3)] == ["a00", "a01", "a10", "a11"]
    assert made == [("a", 0), ("a", 1)] and backlog.take(0) == []
    assert [one.rid for one in backlog.take(4)] == ["a20", "a21", "b00", "b01"]
    backlog.drop(second)
    backlog.drop(first)
    assert not backlog and backlog.take(9) == []


def test_another_sglang_gets_the_pixels_of_every_sample_itself(monkeypatch, capsys):
    """As one whose helpers have gone: pixels cost more then, and no sample is lost."""
    parts = ["sglang", "sglang.srt", "sglang.srt.managers", "sglang.srt.managers.mm_utils"]
    made = [types.ModuleType(name) for name in parts]
    for name, module in zip(parts, made, strict=True):
        monkeypatch.setitem(sys.modules, name, module)
    made[2].mm_utils = made[3]
    pixels = {"pixel_values": ("float32", (2,), np.array([1.0, 2.0], np.float32).view(np.uint8))}
    images = shared_images(pixels, 3)
    assert [image["pixel_values"].tolist() for image in images] == [[1.0, 2.0]] * 3
    assert "pixels are copied for every request" in capsys.readouterr().err
