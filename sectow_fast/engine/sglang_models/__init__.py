"""Models and image processors that SGLang takes from us (SGLANG_EXTERNAL_MODEL_PACKAGE).

Imported by SGLang's own processes only. Its LLaVA class is made for other towers: with a CLIP tower
(transformers' `LlavaForConditionalGeneration` and the hub's llava-1.5 models) its loader raises on
`vision_feature_select_strategy="default"`, so that one class is here.
"""
