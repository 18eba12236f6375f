"""A policy loss in one file outside the package; what is wrong with such a file is said."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from loss_cases import agrees_with_autograd, registry_as_before, triton_agrees_with_torch

from sectow_fast.kernels import (
    PolicyLoss,
    PolicyLossConfig,
    TokenLoss,
    TritonForm,
    dispatch,
    linear_policy_loss,
    loss_options,
    policy_loss,
    register_policy_loss,
)
from sectow_fast.plugins import load_plugins
from sectow_fast.types import UserError


@pytest.fixture(autouse=True)
def forgotten():
    with registry_as_before():
        yield


@pytest.fixture
def soft_clip(outside) -> str:
    load_plugins([str(outside("policy_loss"))])
    return "soft_clip"


def plain(logp, advantages, ratio):
    return TokenLoss(-ratio * advantages, -ratio * advantages, torch.zeros_like(logp))


def plain_oracle(logp, advantages, ratio):
    return -ratio * advantages


def mine(**changes) -> PolicyLoss:
    return PolicyLoss(**{"name": "mine", "torch": plain, "oracle": plain_oracle} | changes)


@pytest.mark.parametrize("options", [{}, {"softness": 0.7}])
@pytest.mark.parametrize(
    "more", [{}, {"kl_coef": 0.2, "kl_unbiased": True, "log_ratio_clamp": 0.8}], ids=str
)
def test_its_gradient_is_that_of_autograd(soft_clip, options, more):
    agrees_with_autograd(PolicyLossConfig(ratio=soft_clip, options=options, **more))


def test_its_triton_form_equals_its_torch_form(soft_clip):
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("Triton is compiled here, not interpreted")
    triton_agrees_with_torch(PolicyLossConfig(ratio=soft_clip, options={"softness": 0.7}))


def test_its_number_changes_the_loss_and_has_its_default(soft_clip):
    logp, ones = torch.tensor([0.5, -0.5]), torch.ones(2)

    def loss(**options):
        config = PolicyLossConfig(ratio=soft_clip, options=options)
        return policy_loss(logp, ones, old_logp=torch.zeros(2), config=config)[0]

    assert loss() == loss(softness=0.3) != loss(softness=0.6)
    assert loss_options() == {"softness": 0.3}


def test_it_is_part_of_a_compiled_step(soft_clip):
    config = PolicyLossConfig(ratio=soft_clip, options={"softness": 0.5})
    hidden, weight = torch.randn(4, 3), torch.randn(7, 3)
    labels, advantages = torch.arange(4), torch.randn(4)

    def step(hidden):
        return linear_policy_loss(hidden, weight, labels, advantages, config=config)[0]

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(hidden), step(hidden))


def test_it_runs_on_a_cpu_where_triton_is_not_installed(outside):
    code = (
        "import sys\n"
        "sys.modules['triton'] = None\n"
        "import torch\n"
        "from sectow_fast.plugins import load_plugins\n"
        f"load_plugins([{str(outside('policy_loss'))!r}])\n"
        "from sectow_fast.kernels import PolicyLossConfig, policy_loss\n"
        "config = PolicyLossConfig(ratio='soft_clip')\n"
        "policy_loss(torch.zeros(2), torch.ones(2), config=config)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_taken_name_is_refused(soft_clip, outside, tmp_path):
    with pytest.raises(ValueError, match=r"policy loss 'sapo': found the name taken.*soft_clip\)$"):
        register_policy_loss(mine(name="sapo"))
    again = tmp_path / "again.py"
    again.write_text(outside("policy_loss").read_text())
    with pytest.raises(UserError, match=r"policy loss 'soft_clip': found the name taken"):
        load_plugins([str(again)])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": "soft_clap"}, r"ratio: found 'soft_clap', expected one of token, .*did you mean "
         r"soft_clip\?"),
        ({"ratio": "soft_clip", "options": {"softnes": 1.0}},
         r"options of ratio 'soft_clip' and kl 'k3': found 'softnes', expected one of softness;"
         r" did you mean softness\?"),
        ({"options": {"softness": 1.0}}, r"ratio 'token' .*found 'softness', expected none"),
        ({"ratio": "soft_clip", "options": {"softness": float("nan")}}, r"options\['softness'\]"),
    ],
)  # fmt: skip
def test_an_unknown_name_or_option_is_refused_with_the_nearest(soft_clip, fields, message):
    with pytest.raises(ValueError, match=message):
        PolicyLossConfig(**fields)


def test_a_number_that_is_a_field_is_given_by_the_field():
    def clipped(logp, advantages, ratio, clip_high):
        return plain(logp, advantages, ratio.clamp(max=1 + clip_high))

    def oracle(logp, advantages, ratio, clip_high):
        return plain_oracle(logp, advantages, ratio.clamp(max=1 + clip_high))

    register_policy_loss(mine(torch=clipped, oracle=oracle, numbers={"clip_high": 0.28}))
    config = PolicyLossConfig(ratio="mine", clip_high=0.5)
    loss, _ = policy_loss(torch.ones(1), torch.ones(1), old_logp=torch.zeros(1), config=config)
    assert loss == -1.5 and loss_options() == {}


@pytest.mark.parametrize(
    ("form", "default", "message"),
    [
        (
            lambda logp, advantages, ratio, clip_high: None,
            0.5,
            r"'clip_high' with the default 0.5, expected 0.28 as 'token' has it",
        ),
        (
            lambda logp, advantages, ratio, softness: None,
            1.0,
            r"'softness' with the default 1.0, expected 0.3 as 'soft_clip' has it",
        ),
        (
            lambda logp, advantages, ratio, kl_coef: None,
            1.0,
            r"found a number 'kl_coef', which is a setting of every loss",
        ),
    ],
)
def test_one_name_has_one_default(soft_clip, form, default, message):
    number = list(inspect.signature(form).parameters)[-1]
    with pytest.raises(ValueError, match=message):
        register_policy_loss(mine(torch=form, oracle=form, numbers={number: default}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"numbers": {"width": 1.0}}, r"policy loss 'mine', torch: found the arguments \(logp, "
         r"advantages, ratio\), expected \(logp, advantages, ratio, width\)"),
        ({"numbers": {"width": None}}, r"numbers\['width'\]: found None, expected a float"),
        ({"triton": TritonForm(lambda logp, ratio: ratio)}, r"triton: found the arguments"),
        ({"triton": plain}, r"triton: found a function, expected a function under @TritonForm"),
        ({"over": "batch"}, r"over: found 'batch', expected token or sequence"),
    ],
)  # fmt: skip
def test_a_form_that_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        mine(**changes)


def test_a_loss_over_sequences_has_their_geometric_mean():
    register_policy_loss(mine(over="sequence"))
    config = PolicyLossConfig(ratio="mine", reduction="seq-mean")
    logp, ids = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0, 0, 1])
    given = {"old_logp": torch.zeros(3), "sequence_ids": ids, "config": config}
    loss, _ = policy_loss(logp, torch.ones(3), **given)
    torch.testing.assert_close(loss, -(torch.tensor([0.5, 2.0]).exp()).mean())
    with pytest.raises(ValueError, match="sequence_ids: found None"):
        policy_loss(logp, torch.ones(3), **given | {"sequence_ids": None})


def test_a_loss_without_a_triton_form_is_for_a_cpu():
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("Triton is compiled here, not interpreted")
    register_policy_loss(mine())
    config = PolicyLossConfig(ratio="mine")
    assert policy_loss(torch.zeros(1), torch.ones(1), config=config)[0] == -1
    with (
        dispatch.interpreted(),
        pytest.raises(ValueError, match="ratio: found 'mine', which has no Triton"),
    ):
        policy_loss(torch.zeros(1), torch.ones(1), config=config)


def test_configurations_are_values(soft_clip):
    config = PolicyLossConfig(ratio=soft_clip, options={"softness": 0.5})
    assert config == replace(config) and hash(config) == hash(replace(config))
    assert config != replace(config, options={"softness": 0.6})
    assert PolicyLossConfig(ratio=soft_clip).options == {"softness": 0.3}


def test_a_triton_form_that_reads_variables_around_it_is_refused():
    width = 2.0

    def closed_over(logp, advantages, ratio):
        return width * logp

    with pytest.raises(ValueError, match=r"closed_over: found variables .*\(width\)"):
        TritonForm(closed_over)
