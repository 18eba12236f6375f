"""The policy kernels: tensors in, tensors out; nothing of rounds or configuration.

The sources live in the top folder `kernels/`. In a checkout or an editable install this package
reaches them through its `__path__`; in a wheel they lie beside this file. Names are resolved on
first use, so that importing this package costs nothing.
"""

from importlib import import_module
from pathlib import Path

_HERE = Path(__file__).parent
if not (_HERE / "loss.py").exists():
    __path__.append(str(_HERE.parent.parent / "kernels"))

# No module is named like a function of it: importing it would hide the function.
_HOME = {
    "group_advantage": "advantage",
    "selective_logprob": "logprob",
    "linear_logprob": "head",
    "policy_loss": "loss",
    "PolicyLossConfig": "loss_config",
    "linear_policy_loss": "linear_loss",
    # For a file that adds a policy loss or a KL estimate.
    "PolicyLoss": "loss_forms",
    "TokenLoss": "loss_forms",
    "KLEstimate": "loss_forms",
    "TokenKL": "loss_forms",
    "TritonForm": "triton_form",
    "register_policy_loss": "loss_registry",
    "register_kl_estimate": "loss_registry",
    "loss_options": "loss_registry",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
