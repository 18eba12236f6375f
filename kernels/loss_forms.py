"""What a policy loss and a KL estimate are made of. Each is one file; see loss_sapo.py.

A loss has three forms with the same arguments, (logp, advantages, ratio, *numbers):

- torch, by hand: the loss and its derivatives, which the CPU path uses;
- Triton, by hand: the same on registers, which the GPU path uses;
- oracle: the loss alone in torch, whose gradient comes from autograd. The tests compare with it.

What all losses share is not part of a form: the ratio and its bound, the KL and entropy terms, the
importance weight of the rollout, masks, and NaN (loss_terms.py, loss_triton.py).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from .triton_form import TritonForm


class TokenLoss(NamedTuple):
    """The loss of each token [N], and its derivatives.

    loss = f(ratio, logp) with ratio = exp(log_ratio). d_log_ratio is the derivative through the
    ratio, as if the ratio had no bound. d_logp is the derivative by logp while the ratio is held.
    """

    loss: Tensor
    d_log_ratio: Tensor
    d_logp: Tensor


class TokenKL(NamedTuple):
    """The estimate of each token [N], and its derivative by logp, as if there were no bound."""

    kl: Tensor
    d_logp: Tensor


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """A loss per token, by the name that `PolicyLossConfig.ratio` gives.

    torch, triton and oracle take (logp, advantages, ratio, *numbers). torch returns `TokenLoss`,
    the Triton form the same three values as a tuple, and oracle the loss. Arguments and results are
    [N]; in the Triton form they are a block of tokens, or one token.

    numbers: the names and the defaults of the loss's own numbers, in the order of the arguments.
    A field of `PolicyLossConfig` gives the value where one has that name (clip_low), and
    `PolicyLossConfig.options` gives it otherwise. over: whether the ratio is each token's or the
    geometric mean over its sequence. triton None: the loss runs on a CPU only.
    """

    name: str
    torch: Callable[..., TokenLoss]
    oracle: Callable[..., Tensor]
    triton: TritonForm | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    over: Literal["token", "sequence"] = "token"

    def __post_init__(self) -> None:
        if self.over not in ("token", "sequence"):
            raise ValueError(
                f"policy loss {self.name!r}, over: found {self.over!r}, expected token or sequence"
            )
        _check_forms(f"policy loss {self.name!r}", self, ("logp", "advantages", "ratio"))


@dataclass(frozen=True, kw_only=True)
class KLEstimate:
    """An estimate of KL(policy || reference) per token, by the name `PolicyLossConfig.kl` gives.

    torch, triton and oracle take (ref_log_ratio, *numbers), where ref_log_ratio is
    ref_logp - logp, already bounded. torch returns `TokenKL`, the Triton form the same two values
    as a tuple, and oracle the estimate. `numbers` and `triton` are as in `PolicyLoss`.
    """

    name: str
    torch: Callable[..., TokenKL]
    oracle: Callable[..., Tensor]
    triton: TritonForm | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_forms(f"KL estimate {self.name!r}", self, ("ref_log_ratio",))


def _check_forms(what: str, made: PolicyLoss | KLEstimate, shared: tuple[str, ...]) -> None:
    """Every form takes the shared arguments and then the numbers, by these names."""
    for name, default in made.numbers.items():
        if not isinstance(default, float) or not math.isfinite(default):
            raise ValueError(f"{what}, numbers[{name!r}]: found {default!r}, expected a float")
    if made.triton is not None and not isinstance(made.triton, TritonForm):
        found = type(made.triton).__name__
        raise ValueError(f"{what}, triton: found a {found}, expected a function under @TritonForm")
    wanted = [*shared, *made.numbers]
    forms = {"torch": made.torch, "oracle": made.oracle}
    if made.triton is not None:
        forms["triton"] = made.triton.function
    for form, function in forms.items():
        found = list(inspect.signature(function).parameters)
        if found != wanted:
            raise ValueError(
                f"{what}, {form}: found the arguments ({', '.join(found)}),"
                f" expected ({', '.join(wanted)})"
            )
