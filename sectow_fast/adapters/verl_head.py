"""verl's fused head by our `linear_logprob`: importing this puts it where verl looks.

    VERL_USE_EXTERNAL_MODULES=sectow_fast.adapters.verl_head ... \\
        actor_rollout_ref.model.use_fused_kernels=True

It takes the place of both of verl's backends (`fused_kernels_options.impl_backend` torch and
triton), and of the one in its Megatron workers, whose vocabulary is cut over the tensor-parallel
ranks. Compared with verl's torch backend, dW is summed in float32 whatever the model's dtype, and
rows labelled -100 are left out.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import verl.utils.experimental.torch_functional as torch_backend
import verl.utils.kernel.linear_cross_entropy as triton_backend
from torch import Tensor

from sectow_fast.adapters import verl as _checked  # noqa: F401  (its version check)
from sectow_fast.kernels import linear_logprob


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 1.0,
    reduction: str = "none",
    dist_process_group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """(log-probs, entropies), shaped as `labels` [...], of hidden [..., H] and weight [V, H].

    dist_process_group: weight is this rank's part of the vocabulary, in rank order; all ranks get
    the same results, and the gradient of hidden is summed over them, as verl's kernel does.
    temperature may be a tensor that broadcasts to labels. Raises ValueError for a reduction.
    """
    if reduction != "none":
        raise ValueError(f"reduction: found {reduction!r}, expected 'none'")
    if isinstance(temperature, Tensor):
        temperature = temperature.to(hidden.device).expand(labels.shape).reshape(-1)
    ranks = 1 if dist_process_group is None else dist.get_world_size(dist_process_group)
    logp, entropy = linear_logprob(
        hidden.reshape(-1, hidden.shape[-1]),
        weight,
        labels.reshape(-1).long(),
        temperature=temperature,
        group=dist_process_group if ranks > 1 else None,
    )
    return logp.view(labels.shape), entropy.view(labels.shape)


class FusedLinearForPPO(torch.nn.Module):
    """verl's module of that name. Its arguments are for verl's own kernels and do nothing here."""

    def __init__(self, chunk_size: int = 512, impl_backend: str = "torch") -> None:
        super().__init__()

    def forward(
        self, hidden_states: Tensor, vocab_weights: Tensor, input_ids: Tensor, temperature=1.0
    ) -> tuple[Tensor, Tensor]:
        return linear_cross_entropy(hidden_states, vocab_weights, input_ids, temperature)


torch_backend.FusedLinearForPPO = FusedLinearForPPO
triton_backend.linear_cross_entropy = linear_cross_entropy
