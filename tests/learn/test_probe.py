"""What is made of a probe's bytes: rows, offload and cache, at the edges of what fits."""

from __future__ import annotations

import dataclasses

import families
import pytest
import torch

from sectow_fast.config import GRPOConfig, LearnConfig
from sectow_fast.learn.policy import make_policy
from sectow_fast.learn.probe import SPARE, Choice, Found, Wanted, decide, measure
from sectow_fast.learn.ranks import Ranks
from sectow_fast.types import UserError

GIB = 2**30
ROW = 8 * GIB
LONG = 4096
# 40 GiB of a card: 16 of masters, 8 of moments to come, and a row of 8 with its gradients.
FOUND = Found(
    offload=False,
    asleep=40 * GIB - 16 * GIB,
    awake=40 * GIB - 16 * GIB - 10 * GIB,
    tokens=LONG,
    row=ROW,
    most=8192,
    slope=2**20,
    masters=16 * GIB,
    gradients=4 * GIB,
    optimizer=8 * GIB,
)
WANTED = Wanted(
    rows=8192,
    offload=(False, True),
    cache=64 * 1024,
    cache_least=32 * 1024,
    cache_most=128 * 1024,
    cache_bytes=2**16,
)
NEEDED = 8 * GIB + int(ROW * (1 + SPARE))  # beside the masters, without offload


def found(**more) -> Found:
    return dataclasses.replace(FOUND, **more)


def wanted(**more) -> Wanted:
    return dataclasses.replace(WANTED, **more)


def test_what_fits_stays_as_it_is_asked_for():
    choice = decide(found(awake=8 * GIB), WANTED)
    assert choice == Choice(offload=False, rows=8192, cache=64 * 1024)


@pytest.mark.parametrize(("more", "rows"), [(0, LONG), (2**20 - 1, LONG), (2**20, LONG + 1)])
def test_rows_are_as_long_as_fits(more, rows):
    choice = decide(found(asleep=NEEDED + more), WANTED)
    assert (choice.offload, choice.rows) == (False, rows)


def test_one_byte_too_little_for_the_longest_sequence_moves_the_weights_to_the_host():
    choice = decide(found(asleep=NEEDED - 1), WANTED)
    assert choice.offload
    # Masters and moments leave the card, and so do the gradients of a row.
    free = NEEDED - 1 + 16 * GIB - (int(ROW * (1 + SPARE)) - 4 * GIB)
    assert choice.rows == min(8192, LONG + free // 2**20)


def test_measured_with_offload_the_weights_come_back_only_where_all_of_them_have_room():
    away = {"offload": True, "row": ROW - 4 * GIB, "awake": 30 * GIB}
    needed = 16 * GIB + 8 * GIB + 4 * GIB + int((ROW - 4 * GIB) * (1 + SPARE))
    assert not decide(found(asleep=needed, **away), WANTED).offload
    assert decide(found(asleep=needed - 1, **away), WANTED).offload


@pytest.mark.parametrize(
    ("awake", "cache"),
    [
        (8 * GIB, 64 * 1024),  # nothing is left beside the moments
        (8 * GIB - 1, 64 * 1024 - 1),
        (8 * GIB - 2**16 * 32 * 1024, 32 * 1024),
        (8 * GIB + 2**16 * 16 * 1024 - 1, 64 * 1024),  # no start of the engines is worth this
        (8 * GIB + 2**16 * 16 * 1024, 80 * 1024),
        (80 * GIB, 128 * 1024),
    ],
)
def test_the_cache_takes_what_is_left_beside_moments_and_weights(awake, cache):
    assert decide(found(awake=awake), WANTED).cache == cache


def test_a_cache_that_is_too_small_moves_the_weights_too():
    choice = decide(found(awake=8 * GIB - 2**16 * 32 * 1024 - 1), WANTED)
    assert choice.offload and choice.cache == 128 * 1024


@pytest.mark.parametrize(
    ("more", "ask", "words"),
    [
        ({"asleep": 0, "row": 30 * GIB}, {}, r"engine\.context_length 4096: found 11\.50 GiB too"),
        ({"asleep": NEEDED - 1}, {"offload": (False,)}, r"learn\.offload off: .* auto$"),
        ({"awake": -40 * GIB}, {}, r"engine\.context_length: .*cache of 0 tokens.* swap"),
        ({"awake": 0}, {"offload": (False,), "cache_least": 64 * 1024}, r"^engine\.kv_tokens: "),
    ],
)
def test_what_fits_nowhere_names_the_setting_in_one_line(more, ask, words):
    with pytest.raises(UserError, match=words) as raised:
        decide(found(**more), wanted(**ask))
    assert "\n" not in str(raised.value)


def test_no_row_is_longer_than_one_that_was_run():
    assert decide(found(most=5000), WANTED).rows == 5000
    assert decide(found(most=LONG, slope=0), WANTED).rows == LONG


def test_a_row_that_takes_nothing_more_per_token_is_not_divided_by():
    assert decide(found(slope=0), WANTED).rows == 8192


class Other(Ranks):
    """Beside a rank that has half of everything."""

    def largest(self, value):
        return max(value, value / 2)


def test_the_rank_with_the_least_room_decides():
    least = FOUND.tightest(Other())
    assert (least.asleep, least.awake) == (FOUND.asleep // 2, FOUND.awake // 2)
    assert least == found(asleep=least.asleep, awake=least.awake, most=FOUND.most // 2)


class Rows:
    """A gauge that says how many tokens the longest row since `restart` had."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self._since: list[int] = []

    def free(self) -> int:
        return 10**6

    def restart(self) -> None:
        self._since = []

    def taken(self) -> int:
        return max(self._since) * 1000

    def row(self, tokens: int) -> None:
        self.seen.append(tokens)
        self._since.append(tokens)


@pytest.mark.parametrize(
    ("room", "most", "slope"), [(10**6, 160, 1000), (100, 96, 1000), (32, 32, 0), (31, 32, 0)]
)
def test_a_row_without_room_is_halved_towards_the_shortest_and_leaves_nothing(room, most, slope):
    """Rows of 32, then up to 160, 96, 64 ... tokens on a card that has room for so many."""
    model = families.qwen2()
    policy = make_policy(model, families.Codec(model), LearnConfig())
    gauge = Rows()

    def narrow(module, args, kwargs):
        gauge.row(kwargs["input_ids"].shape[1])
        if gauge.seen[-1] > room:
            raise torch.OutOfMemoryError("no room")

    policy.model.model.register_forward_pre_hook(narrow, with_kwargs=True)
    grpo = GRPOConfig(max_new_tokens=8, tokens_per_batch=160)
    found = measure([policy], [], grpo, context=32, gauge=gauge)
    assert (found.tokens, found.most, found.slope) == (32, most, slope)
    assert found.row == (32_000 if room >= 32 else 10**6 + 1)
    assert gauge.seen[0] == 32 and max(gauge.seen) == (32 if room < 32 else 160)
    assert all(p.grad is None for p in policy.parameters())
    trained = sum(p.numel() * 4 for p in policy.parameters())
    assert (found.masters, found.gradients, found.optimizer) == (trained, trained, 2 * trained)
