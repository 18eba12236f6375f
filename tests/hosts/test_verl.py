"""In the real verl: our loss, advantages and head give what verl's own give."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tensordict import TensorDict
from transformers import Qwen2Config, Qwen2ForCausalLM
from verl import DataProto
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.utils.experimental.torch_functional import FusedLinearForPPO as TheirHead
from verl.workers.config import FSDPActorConfig

import sectow_fast.adapters.verl  # noqa: F401

ROWS, TOKENS = 12, 7
MODES = (
    *("token-mean", "token-sum", "seq-mean-token-sum"),
    *("seq-mean-token-sum-norm", "seq-mean-token-mean"),
)
NAMES = {"sectow": "vanilla", "sectow_gspo": "gspo"}
NAMES |= {"sectow_cispo": "cispo", "sectow_sapo": "sapo"}


def batch(seed: int = 0, *, outcome: bool = False) -> dict[str, torch.Tensor]:
    """Log-probs far enough apart that every clip is met; rows of 0 to TOKENS live tokens."""
    make = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=make)  # noqa: E731
    lengths = torch.tensor([0, 1, *range(2, ROWS)]).clamp(max=TOKENS)
    old = draw(ROWS, TOKENS) - 3
    return {
        "old_log_prob": old,
        "log_prob": (old + 0.7 * draw(ROWS, TOKENS)).requires_grad_(),
        "advantages": draw(ROWS, 1).expand(ROWS, TOKENS) if outcome else draw(ROWS, TOKENS),
        "response_mask": (torch.arange(TOKENS) < lengths[:, None]).long(),
    }


def config(**settings) -> FSDPActorConfig:
    info = settings.pop("info", {})
    made = FSDPActorConfig(
        **{"strategy": "fsdp", "rollout_n": 4, "ppo_micro_batch_size_per_gpu": 4} | settings
    )
    made.global_batch_info.update(info)
    return made


def both(name, given, made, mode, **more):
    """[(loss, d loss / d log-prob, measures)]: verl's and ours."""
    found = []
    for one in (NAMES[name], name):
        loss, measures = get_policy_loss_fn(one)(**given, loss_agg_mode=mode, config=made, **more)
        (gradient,) = torch.autograd.grad(loss, given["log_prob"])
        found.append((loss.detach(), gradient, measures))
    return found


def assert_same(theirs, ours):
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-6)
    assert theirs[1].abs().max() > 1e-4
    assert ours[2] == pytest.approx(theirs[2], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", MODES)
def test_a_loss_is_verls_own(name, mode):
    assert_same(*both(name, batch(), config(clip_ratio_low=0.2, clip_ratio_high=0.28), mode))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", MODES)
def test_a_loss_over_ranks_and_batches_is_verls_own(name, mode):
    info = {"dp_size": 2, "batch_num_tokens": 91, "global_batch_size": 24, "loss_scale_factor": 64}
    assert_same(*both(name, batch(1), config(info=info), mode))


@pytest.mark.parametrize("name", NAMES)
def test_rollout_weights_are_verls_own(name):
    weights = torch.rand(ROWS, TOKENS) * 2
    weights[3] = 0.0
    assert_same(*both(name, batch(2), config(), "token-mean", rollout_is_weights=weights))


def test_the_dual_clip_is_verls_own():
    given = batch(3)
    step = torch.linspace(-0.1, 1.0, ROWS)[:, None]
    given["log_prob"] = (given["old_log_prob"] + step).requires_grad_()
    found = both("sectow", given, config(clip_ratio_c=1.5), "token-mean")
    assert found[0][2]["actor/pg_clipfrac_lower"] > 0.2
    assert_same(*found)


def test_no_lower_bound_is_verls_own():
    assert_same(*both("sectow_cispo", batch(4), config(clip_ratio_low=10.0), "token-mean"))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_masked_token_holds_never_matters(name):
    given = batch(5)
    spoiled = {n: t.detach().clone() for n, t in given.items()}
    off = given["response_mask"] == 0
    for one in ("old_log_prob", "log_prob", "advantages"):
        spoiled[one][off] = torch.nan
    spoiled["log_prob"].requires_grad_()
    loss = get_policy_loss_fn(name)
    clean, _ = loss(**given, loss_agg_mode="seq-mean-token-mean", config=config())
    found, measures = loss(**spoiled, loss_agg_mode="seq-mean-token-mean", config=config())
    assert found == clean and np.isfinite(list(measures.values())).all()


def test_an_unknown_mode_and_a_missing_count_are_named():
    loss = get_policy_loss_fn("sectow")
    with pytest.raises(ValueError, match="loss_agg_mode: found 'median'"):
        loss(**batch(), loss_agg_mode="median", config=config())
    with pytest.raises(ValueError, match="batch_num_tokens: found None with dp_size 2"):
        loss(**batch(), loss_agg_mode="token-mean", config=config(info={"dp_size": 2}))


# --- advantages ---------------------------------------------------------------------------------


def rewards(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Groups of 1, 3 and 8 completions, out of order, by names as verl has them."""
    make = torch.Generator().manual_seed(seed)
    names = np.array(list("caabbbbbbbba"), dtype=object)
    mask = (torch.arange(TOKENS) < torch.tensor([*range(1, 8), *range(1, 6)])[:, None]).float()
    scores = torch.zeros(ROWS, TOKENS)
    scores[:, 0] = torch.randn(ROWS, generator=make)
    return scores, mask, names


@pytest.mark.parametrize("by_std", [True, False])
@pytest.mark.parametrize("ours, theirs", [("sectow_grpo", "grpo"), ("sectow_rloo", "rloo")])
def test_advantages_are_verls_own(ours, theirs, by_std):
    scores, mask, index = rewards()
    given = {"token_level_rewards": scores, "response_mask": mask, "index": index}
    settings = AlgoConfig(norm_adv_by_std_in_grpo=by_std)
    more = {"norm_adv_by_std_in_grpo": by_std} if theirs == "grpo" else {}
    want, _ = get_adv_estimator_fn(theirs)(**given, **more)
    found, returns = get_adv_estimator_fn(ours)(**given, config=settings)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)
    assert returns is found and want[0].abs().max() > 0.1  # the group of one keeps its score


@pytest.mark.parametrize("by_std", [True, False])
def test_verls_trainer_takes_our_advantages(by_std):
    scores, mask, index = rewards(1)

    def data() -> DataProto:
        tensors = {"token_level_rewards": scores.clone(), "response_mask": mask}
        return DataProto(
            batch=TensorDict(tensors, batch_size=ROWS), non_tensor_batch={"uid": index}
        )

    settings = AlgoConfig(norm_adv_by_std_in_grpo=by_std)
    want, found = (
        compute_advantage(data(), name, norm_adv_by_std_in_grpo=by_std, config=settings).batch[
            "advantages"
        ]
        for name in ("grpo", "sectow_grpo")
    )
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)


def test_a_group_without_a_signal_has_no_advantage():
    scores = torch.zeros(3, 2)
    scores[:, 0] = 0.1 + 0.2  # a mean of three of these is not exactly one of them
    index = np.array(["a", "a", "a"], dtype=object)
    found, _ = get_adv_estimator_fn("sectow_grpo")(scores, torch.ones(3, 2), index)
    assert (found == 0).all()


# --- the head -----------------------------------------------------------------------------------


def tiny() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )


def test_verls_fused_forwards_use_our_head():
    from verl.models.transformers import dense_common
    from verl.utils.experimental import torch_functional

    want = through(dense_common.forward_with_torch_backend)
    assert torch_functional.FusedLinearForPPO is TheirHead
    import sectow_fast.adapters.verl_head as ours

    for forward in (
        dense_common.forward_with_torch_backend,
        dense_common.forward_with_triton_backend,  # verl's own kernel would need a GPU
    ):
        found = through(forward)
        for name, value in want.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert torch_functional.FusedLinearForPPO is ours.FusedLinearForPPO


def through(forward) -> dict[str, torch.Tensor]:
    model = tiny()
    ids = torch.randint(0, 300, (3, 9), generator=torch.Generator().manual_seed(1))
    out = forward(model, input_ids=ids, return_dict=True, temperature=0.8)
    (out.log_probs.mean() - 0.1 * out.entropy.mean()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    return {"logp": out.log_probs, "entropy": out.entropy, **gradients}


def on_a_rank(rank: int, folder: str) -> None:
    """verl's Megatron worker gives the head's part of this rank and the tensor-parallel group."""
    from sectow_fast.adapters import verl_head

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    hidden, weight, labels, temperature = head_inputs()
    part = weight[rank * 5 : rank * 5 + 5].clone().requires_grad_()
    hidden = hidden.requires_grad_()
    found = verl_head.linear_cross_entropy(
        hidden, part, labels, temperature, "none", dist.group.WORLD
    )
    (found[0].sum() - found[1].square().sum()).backward()
    torch.save([*(one.detach() for one in found), hidden.grad, part.grad], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def head_inputs():
    make = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(2, 3, 8, generator=make), torch.randn(10, 8, generator=make)
    labels = torch.tensor([[1, 9, -100], [4, 5, 0]])
    return hidden, weight, labels, torch.tensor([[0.7], [1.2]])


def test_a_vocabulary_cut_over_ranks_is_the_whole_one(tmp_path):
    from sectow_fast.adapters import verl_head

    mp.start_processes(on_a_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    hidden, weight, labels, temperature = head_inputs()
    weight, hidden = weight.requires_grad_(), hidden.requires_grad_()
    whole = torch.log_softmax((hidden @ weight.T) / temperature[..., None], -1)
    logp = whole.gather(-1, labels.clamp(min=0)[..., None])[..., 0].where(labels >= 0, 0.0)
    entropy = -(whole.exp() * whole).sum(-1).where(labels >= 0, 0.0)
    (logp.sum() - entropy.square().sum()).backward()
    for rank, found in enumerate(ranks):
        mine = weight.grad[rank * 5 : rank * 5 + 5]
        torch.testing.assert_close(found, [logp.detach(), entropy.detach(), hidden.grad, mine])
    with pytest.raises(ValueError, match="found 'sum', expected 'none'"):
        verl_head.linear_cross_entropy(hidden, weight, labels, 1.0, "sum")


def test_verl_itself_loads_them_where_the_environment_says_so():
    code = (
        "import verl; from verl.trainer.ppo.core_algos import get_adv_estimator_fn,"
        " get_policy_loss_fn; from verl.utils.kernel import linear_cross_entropy as head;"
        " print(get_policy_loss_fn('sectow').__module__, get_adv_estimator_fn('sectow_grpo'"
        ").__module__, head.linear_cross_entropy.__module__)"
    )
    names = "sectow_fast.adapters.verl,sectow_fast.adapters.verl_head"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "VERL_USE_EXTERNAL_MODULES": names},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = names.split(",")
    assert done.stdout.split()[-3:] == [first, first, second]
