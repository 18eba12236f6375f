"""The policy losses and KL estimates that `PolicyLossConfig` can name, and how to add one.

A file of yours registers its own, and no file here changes:

    from ... import PolicyLoss, PolicyLossConfig, register_policy_loss

    register_policy_loss(PolicyLoss(name="mine", torch=..., oracle=..., triton=...))
    PolicyLossConfig(ratio="mine")
"""

from __future__ import annotations

from typing import TypeVar

from .checks import check_choice
from .kl_estimates import K1, K2, K3
from .loss_cispo import CISPO
from .loss_clip import SEQUENCE, TOKEN
from .loss_forms import KLEstimate, PolicyLoss
from .loss_sapo import SAPO

# Settings of every loss. A loss cannot have a number of such a name.
SHARED = (
    *("ratio", "reduction", "kl", "kl_coef", "kl_unbiased"),
    *("entropy_coef", "tis_cap", "band_low", "band_high", "log_ratio_clamp", "options"),
)
Form = TypeVar("Form", PolicyLoss, KLEstimate)

_policy_losses: dict[str, PolicyLoss] = {}
_kl_estimates: dict[str, KLEstimate] = {}


def register_policy_loss(loss: PolicyLoss) -> PolicyLoss:
    """Let `PolicyLossConfig(ratio=loss.name)` mean `loss`, and return it.

    ValueError: the name is taken, or a number of the loss has the name of a shared setting, or that
    of another form's number with another default.
    """
    return _register("policy loss", _policy_losses, loss)


def register_kl_estimate(estimate: KLEstimate) -> KLEstimate:
    """Let `PolicyLossConfig(kl=estimate.name)` mean `estimate`, and return it.

    ValueError: as `register_policy_loss`.
    """
    return _register("KL estimate", _kl_estimates, estimate)


def policy_loss_named(name: str) -> PolicyLoss:
    """ValueError names the nearest known name."""
    check_choice("ratio", name, _policy_losses)
    return _policy_losses[name]


def kl_estimate_named(name: str) -> KLEstimate:
    """ValueError names the nearest known name."""
    check_choice("kl", name, _kl_estimates)
    return _kl_estimates[name]


def loss_options() -> dict[str, float]:
    """Names and defaults of the numbers that registered losses and KL estimates add.

    They are what `PolicyLossConfig.options` can hold, each only where `ratio` or `kl` names a form
    that has it. Numbers that are fields of `PolicyLossConfig` (clip_low) are not among them.
    """
    return {
        name: default
        for form in (*_policy_losses.values(), *_kl_estimates.values())
        for name, default in form.numbers.items()
        if name not in FIELDS
    }


def declared_options(ratio: str, kl: str) -> dict[str, float]:
    """`loss_options` of one loss and one KL estimate, in a fixed order."""
    numbers = {**policy_loss_named(ratio).numbers, **kl_estimate_named(kl).numbers}
    return {name: default for name, default in numbers.items() if name not in FIELDS}


def _register(kind: str, table: dict[str, Form], form: Form) -> Form:
    if form.name in table:
        raise ValueError(
            f"{kind} {form.name!r}: found the name taken, expected a new one; each {kind} is"
            f" registered once (known: {', '.join(table)})"
        )
    for name, default in form.numbers.items():
        if name in SHARED:
            raise ValueError(
                f"{kind} {form.name!r}: found a number {name!r}, which is a setting of every loss;"
                " give it another name"
            )
        for other in (*_policy_losses.values(), *_kl_estimates.values()):
            if other.numbers.get(name, default) != default:
                raise ValueError(
                    f"{kind} {form.name!r}: found {name!r} with the default {default}, expected"
                    f" {other.numbers[name]} as {other.name!r} has it; give the number the same"
                    " default or another name"
                )
    table[form.name] = form
    return form


for _loss in (TOKEN, SEQUENCE, CISPO, SAPO):
    register_policy_loss(_loss)
for _estimate in (K1, K2, K3):
    register_kl_estimate(_estimate)

# The numbers of what is registered here are fields of PolicyLossConfig.
FIELDS = frozenset(name for loss in _policy_losses.values() for name in loss.numbers)
