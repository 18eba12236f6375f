"""Takes what transformers' image processor made (`format: processor_output`) for `llava.py`."""

from __future__ import annotations

from typing import Any

from sglang.srt.managers.schedule_batch import MultimodalProcessorOutput
from sglang.srt.multimodal.processors.base_processor import (
    BaseMultimodalProcessor,
    MultimodalSpecialTokens,
)

from sectow_fast.engine.sglang_models.llava import LlavaForConditionalGeneration


class LlavaImages(BaseMultimodalProcessor):
    models = (LlavaForConditionalGeneration,)

    def __init__(self, hf_config: Any, server_args: Any, processor: Any, *more: Any, **kw: Any):
        super().__init__(hf_config, server_args, processor, *more, **kw)
        self.tokens = MultimodalSpecialTokens(
            image_token=processor.image_token,
            image_token_id=processor.tokenizer.convert_tokens_to_ids(processor.image_token),
        ).build(processor)

    async def process_mm_data_async(
        self, image_data: Any, input_text: Any, request_obj: Any, *more: Any, **kw: Any
    ) -> MultimodalProcessorOutput:
        data = await self.load_mm_data(
            prompt=input_text, multimodal_tokens=self.tokens, image_data=image_data
        )
        items, ids, _ = await self.process_and_combine_mm_data_async(data, self.tokens)
        return MultimodalProcessorOutput(
            mm_items=items, input_ids=ids.tolist(), im_token_id=self.tokens.image_token_id
        )
