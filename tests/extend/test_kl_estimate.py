"""A KL estimate in one file outside the package."""

from __future__ import annotations

import pytest
import torch
from loss_cases import agrees_with_autograd, registry_as_before, triton_agrees_with_torch

from sectow_fast.kernels import (
    KLEstimate,
    PolicyLossConfig,
    TokenKL,
    loss_options,
    policy_loss,
    register_kl_estimate,
)
from sectow_fast.plugins import load_plugins


@pytest.fixture(autouse=True)
def huber(outside):
    with registry_as_before():
        load_plugins([str(outside("kl_estimate"))])
        yield


def halved(ref_log_ratio):
    return TokenKL(ref_log_ratio / 2, torch.full_like(ref_log_ratio, -0.5))


def halved_oracle(ref_log_ratio):
    return ref_log_ratio / 2


@pytest.mark.parametrize(
    "more", [{}, {"kl_unbiased": True}, {"ratio": "cispo"}, {"log_ratio_clamp": 1.2}], ids=str
)
@pytest.mark.parametrize("options", [{}, {"huber_width": 0.5}], ids=str)
def test_its_gradient_is_that_of_autograd(options, more):
    agrees_with_autograd(PolicyLossConfig(kl="huber", kl_coef=0.3, options=options, **more))


def test_its_triton_form_equals_its_torch_form():
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("Triton is compiled here, not interpreted")
    options = {"huber_width": 0.5}
    for unbiased in (False, True):
        triton_agrees_with_torch(
            PolicyLossConfig(kl="huber", kl_coef=0.3, kl_unbiased=unbiased, options=options)
        )


def test_its_number_moves_the_metric_and_has_its_default():
    def kl(**options):
        config = PolicyLossConfig(kl="huber", kl_coef=0.1, options=options)
        ref = torch.tensor([2.0])
        return policy_loss(torch.zeros(1), torch.ones(1), ref_logp=ref, config=config)[1]["kl"]

    assert kl() == 1.5 and kl(huber_width=4.0) == 2.0
    assert loss_options() == {"huber_width": 1.0}


def test_a_taken_name_is_refused():
    for name in ("k3", "huber"):
        estimate = KLEstimate(name=name, torch=halved, oracle=halved_oracle)
        with pytest.raises(ValueError, match=rf"KL estimate '{name}': found the name taken"):
            register_kl_estimate(estimate)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"kl: found 'hubert', .*k1, k2, k3, huber; did you mean"):
        PolicyLossConfig(kl="hubert")


def test_options_of_a_loss_and_of_an_estimate_are_given_together(outside):
    load_plugins([str(outside("policy_loss"))])
    assert loss_options() == {"softness": 0.3, "huber_width": 1.0}
    config = PolicyLossConfig(
        **{"ratio": "soft_clip", "kl": "huber", "kl_coef": 0.2},
        options={"huber_width": 0.5, "softness": 0.6},
    )
    agrees_with_autograd(config)
    with pytest.raises(ValueError, match="expected one of huber_width"):
        PolicyLossConfig(kl="huber", options={"softness": 0.6})
