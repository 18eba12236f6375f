"""Stands in for sgl_kernel on a CPU: SGLang imports its names there and runs native torch code.

Every name exists and raises when called, so nothing is computed here. SGLang itself is untouched.
"""

import sys

import torch

__version__ = "0.0.0+cpu"


def _missing(name):
    def refuse(*arguments, **more):
        raise NotImplementedError(f"sgl_kernel.{name}: not in the CPU stand-in")

    return refuse


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _missing(name)


sys.modules[__name__ + ".mamba"] = sys.modules[__name__]
# Only what SGLang looks up while importing: it probes for others and must not find them.
for _name in (
    "fused_sigmoid_mul_cpu",
    "fused_qk_gemma_rmsnorm_cpu",
    "fused_qk_gemma_rmsnorm_with_gate_cpu",
    "fused_qkvzba_split_reshape_cat_contiguous_cpu",
    "fused_gdn_gating_cpu",
    "fused_sigmoid_gating_delta_rule_update_cpu",
):
    setattr(torch.ops.sgl_kernel, _name, _missing(_name))
