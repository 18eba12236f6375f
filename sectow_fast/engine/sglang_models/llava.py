"""transformers' LLaVA for SGLang: its own vision tower and projector, SGLang's decoder.

The tower and the projector are transformers' classes, so image features are those the trainer
computes; only the decoder, where the time goes, is SGLang's. The tower is whole on every rank.
"""

from __future__ import annotations

import importlib
from array import array
from collections.abc import Iterable
from typing import Any

import torch
from sglang.srt.managers.mm_utils import general_mm_embed_routine, pad_mm_tokens
from sglang.srt.managers.schedule_batch import Modality, MultimodalInputs
from torch import nn

# Where the checkpoint's names lie. transformers has written both layouts.
OURS = {
    "vision_tower.": "vision_tower.",
    "multi_modal_projector.": "multi_modal_projector.",
    "language_model.": "language_model.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}


class LlavaForConditionalGeneration(nn.Module):
    """Raises KeyError in `load_weights` where a name or a shape is not this model's."""

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        from transformers import AutoModel
        from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

        super().__init__()
        self.config = config
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = LlavaMultiModalProjector(config)
        self.language_model = _decoder(config.text_config)(
            config.text_config,
            quant_config=quant_config,
            prefix=f"{prefix}.language_model".removeprefix("."),
        )

    def pad_input_ids(self, input_ids: array, mm_inputs: MultimodalInputs) -> array:
        return pad_mm_tokens(input_ids, mm_inputs)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.model.embed_tokens

    def get_image_feature(self, items: list[Any]) -> torch.Tensor:
        """[image tokens, H] of all items, in order."""
        weight = self.multi_modal_projector.linear_1.weight
        pixels = torch.cat([torch.as_tensor(item.feature) for item in items])
        states = self.vision_tower(
            pixels.to(device=weight.device, dtype=weight.dtype), output_hidden_states=True
        ).hidden_states
        layer = self.config.vision_feature_layer
        layers = [layer] if isinstance(layer, int) else layer
        chosen = torch.cat([states[i] for i in layers], dim=-1)
        if self.config.vision_feature_select_strategy == "default":
            chosen = chosen[:, 1:]
        return self.multi_modal_projector(chosen).flatten(0, 1)

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: Any,
        get_embedding: bool = False,
    ) -> Any:
        return general_mm_embed_routine(
            input_ids=input_ids,
            forward_batch=forward_batch,
            language_model=self.language_model,
            data_embedding_funcs={Modality.IMAGE: self.get_image_feature},
            positions=positions,
            get_embedding=get_embedding,
        )

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Checkpoint names in, whichever layout; the decoder's go through SGLang's own loader."""
        mine = {n: p for n, p in self.named_parameters() if not n.startswith("language_model.")}
        decoder: list[tuple[str, torch.Tensor]] = []
        for name, tensor in weights:
            target = _placed(name)
            if target.startswith("language_model."):
                decoder.append((target.removeprefix("language_model."), tensor))
                continue
            if target not in mine and target.startswith("vision_tower."):
                # transformers wraps CLIP's tower in `vision_model` in some versions only.
                inner = target.removeprefix("vision_tower.").removeprefix("vision_model.")
                both = (f"vision_tower.vision_model.{inner}", f"vision_tower.{inner}")
                target = next((n for n in both if n in mine), target)
            if target not in mine:
                raise KeyError(f"weight {name!r}: this model has no parameter of that name")
            if mine[target].shape != tensor.shape:
                raise KeyError(
                    f"weight {name!r}: found shape {tuple(tensor.shape)}, expected"
                    f" {tuple(mine[target].shape)}"
                )
            mine[target].data.copy_(tensor)
        self.language_model.load_weights(decoder)


def _placed(name: str) -> str:
    for prefix in sorted(OURS, key=len, reverse=True):
        if name.startswith(prefix):
            return OURS[prefix] + name.removeprefix(prefix)
    raise KeyError(f"weight {name!r}: expected a name that begins with one of {sorted(OURS)}")


def _decoder(config: Any) -> type[nn.Module]:
    """SGLang's class for a text configuration; its registry would import every model it has."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    module = importlib.import_module(f"sglang.srt.models.{config.model_type}")
    return getattr(module, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type])


EntryClass = LlavaForConditionalGeneration
