from __future__ import annotations

import pytest
import torch

from sectow_fast.kernels import group_advantage


def test_one_group_by_hand():
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0])
    values, signal = group_advantage(rewards, group_size=4, eps=0.0)
    spread = rewards.std()
    torch.testing.assert_close(values, (rewards - 0.5) / spread)
    assert signal.all()


@pytest.mark.parametrize("baseline", ["mean", "loo"])
@pytest.mark.parametrize("scale", ["std", "none", "batch"])
def test_ragged_interleaved_groups_equal_a_loop(baseline, scale):
    torch.manual_seed(0)
    rewards, ids = torch.rand(50, dtype=torch.float64), torch.randint(0, 9, (50,))
    values, signal = group_advantage(rewards, ids, baseline=baseline, scale=scale)
    for group in ids.unique():
        mine = rewards[ids == group]
        centred = mine - mine.mean()
        if baseline == "loo":
            centred = centred * len(mine) / max(len(mine) - 1, 1)
        own = mine.std() if len(mine) > 1 else 0.0
        spread = {"std": own, "none": None, "batch": rewards.std()}[scale]
        wanted = centred if spread is None else centred / (spread + 1e-4)
        if mine.max() == mine.min():
            wanted = torch.zeros_like(mine)
        torch.testing.assert_close(values[ids == group], wanted)
        assert (signal[ids == group] == (mine.max() != mine.min())).all()


def test_float_noise_is_no_signal():
    # 0.1 summed and divided is not 0.1, so a std test would see a spread here.
    rewards = torch.full((7,), 0.1)
    values, signal = group_advantage(rewards, group_size=7)
    assert not signal.any() and (values == 0).all()


def test_nan_is_an_error_that_names_the_row():
    with pytest.raises(ValueError, match=r"rewards\[2\]: found nan"):
        group_advantage(torch.tensor([0.0, 1.0, float("nan"), 1.0]), group_size=2)


def test_empty_and_wrong_sizes():
    values, signal = group_advantage(torch.zeros(0), group_size=4)
    assert values.shape == signal.shape == (0,)
    with pytest.raises(ValueError, match="divisor of 5"):
        group_advantage(torch.zeros(5), group_size=4)
    with pytest.raises(ValueError, match="exactly one"):
        group_advantage(torch.zeros(4))
