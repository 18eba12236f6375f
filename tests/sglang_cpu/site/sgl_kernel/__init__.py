"""Stand-in for sgl_kernel on a CPU without AMX: sglang's CPU path imports these names, but (no AMX) runs forward_native."""

import sys
import torch

__version__ = "0.0.0+cpustub"


def _missing(name):
    def f(*a, **k):
        raise NotImplementedError(f"sgl_kernel.{name}: not in the CPU stub")

    return f


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _missing(name)


sys.modules[__name__ + ".mamba"] = sys.modules[__name__]
# Only the ops that sglang looks up while importing; sglang probes others with hasattr() and must not find them.
for _n in (
    "fused_sigmoid_mul_cpu",
    "fused_qk_gemma_rmsnorm_cpu",
    "fused_qk_gemma_rmsnorm_with_gate_cpu",
    "fused_qkvzba_split_reshape_cat_contiguous_cpu",
    "fused_gdn_gating_cpu",
    "fused_sigmoid_gating_delta_rule_update_cpu",
):
    setattr(torch.ops.sgl_kernel, _n, _missing(_n))
