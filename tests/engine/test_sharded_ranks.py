"""Two ranks over gloo share the weights; an engine of one of them dies, and comes back alone."""

from __future__ import annotations

import json
from pathlib import Path

import commands
import pytest

SCRIPT = Path(__file__).with_name("sharded_ranks.py")
SCENARIOS = ("sound", "dies", "idle", "wrong", "late")


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """{scenario: [what each rank wrote]}."""
    out = tmp_path_factory.mktemp("ranks")
    commands.run_ranks(SCRIPT, out, *SCENARIOS, timeout=100)
    return {
        name: [json.loads((out / f"{name}-{rank}.json").read_text()) for rank in range(2)]
        for name in SCENARIOS
    }


def test_all_ranks_draw_and_compare_log_probs_of_sharded_weights(played):
    first, second = played["sound"]
    assert first["ids"] == second["ids"] and len(first["ids"]) == 3
    assert len(first["ids"][0]) == 24 and first["ids"][0] != first["ids"][2]
    assert [rank["unproven after one prompt"] for rank in played["sound"]] == [False, True]
    assert not first["unproven"] and not second["unproven"]
    assert first["counts"]["restarts"] == second["counts"]["restarts"] == 0


@pytest.mark.parametrize("scenario", ["dies", "idle"])
def test_an_engine_that_is_restarted_takes_its_weights_without_the_other_rank(played, scenario):
    sound, ranks = played["sound"], played[scenario]
    assert [rank["counts"]["restarts"] for rank in ranks] == [0, 1]
    assert [rank["ids"] for rank in ranks] == [rank["ids"] for rank in sound]
    assert not any(rank["unproven"] for rank in ranks)


def test_all_ranks_stop_where_one_of_them_draws_from_other_weights(played):
    ranks = played["wrong"]
    assert ranks[0]["error"] == ranks[1]["error"]
    assert "log-probs of the first rollout" in ranks[0]["error"]


def test_rows_of_an_engine_that_is_gone_are_not_compared_with_todays_weights(played):
    first, second = played["late"]
    assert "error" not in first and "error" not in second
    assert [rank["counts"]["restarts"] for rank in (first, second)] == [0, 1]
    assert (first["unproven"], second["unproven"]) == (False, True)
