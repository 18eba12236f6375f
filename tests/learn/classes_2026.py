"""Tiny random models of the classes of 2026."""

from __future__ import annotations

import transformers as t
from families import IMAGE, ROPE, SPECIAL, TEXT, VISION, lively

TOWER = dict(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=8,
    patch_size=4,
)
PINPOINTS = [[8, 16], [16, 8], [16, 16]]
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
MROPE = TEXT | dict(head_dim=8, rope_parameters=ROPE)
DELTA = dict(
    num_hidden_layers=3,
    layer_types=["linear_attention", "full_attention", "linear_attention"],
    linear_num_value_heads=4,
    linear_num_key_heads=2,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    linear_conv_kernel_dim=4,
)
QWEN_TOWER = VISION | dict(
    hidden_size=16, out_hidden_size=32, intermediate_size=32, num_position_embeddings=64
)
GLM_TOWER = VISION | dict(hidden_size=16, out_hidden_size=32, intermediate_size=32, image_size=32)
GLM_IDS = dict(
    image_token_id=IMAGE,
    video_token_id=93,
    image_start_token_id=91,
    image_end_token_id=92,
    video_start_token_id=94,
    video_end_token_id=95,
)


def clip():
    return t.CLIPVisionConfig(**TOWER, projection_dim=16)


def llava_next():
    return t.LlavaNextForConditionalGeneration(
        t.LlavaNextConfig(
            vision_config=clip(),
            text_config=t.LlamaConfig(**TEXT),
            image_token_index=IMAGE,
            vision_feature_layer=-1,
            image_grid_pinpoints=PINPOINTS,
            tie_word_embeddings=True,
        )
    )


def llava_onevision():
    return t.LlavaOnevisionForConditionalGeneration(
        t.LlavaOnevisionConfig(
            vision_config=t.SiglipVisionConfig(**TOWER),
            text_config=t.Qwen2Config(**TEXT),
            image_token_index=IMAGE,
            video_token_index=93,
            image_grid_pinpoints=PINPOINTS,
            vision_aspect_ratio="anyres_max_2",
            tie_word_embeddings=True,
        )
    )


def pixtral_config():
    return t.PixtralVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=4,
    )


def pixtral():
    return t.LlavaForConditionalGeneration(
        t.LlavaConfig(
            vision_config=pixtral_config(),
            text_config=t.MistralConfig(**TEXT, head_dim=8, sliding_window=None),
            image_token_index=IMAGE,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            tie_word_embeddings=True,
        )
    )


def mistral3():
    return t.Mistral3ForConditionalGeneration(
        t.Mistral3Config(
            vision_config=pixtral_config(),
            text_config=t.MistralConfig(**TEXT, head_dim=8, sliding_window=None),
            image_token_index=IMAGE,
            spatial_merge_size=2,
            tie_word_embeddings=True,
        )
    )


def internvl():
    return t.InternVLForConditionalGeneration(
        t.InternVLConfig(
            vision_config=t.InternVLVisionConfig(
                **TOWER | dict(image_size=[16, 16], patch_size=[4, 4], use_qk_norm=True)
            ),
            text_config=t.Qwen2Config(**TEXT),
            image_token_id=IMAGE,
            image_seq_length=4,
            downsample_ratio=0.5,
            tie_word_embeddings=True,
        )
    )


def _idefics(model, config, vision):
    return model(
        config(
            vision_config=vision(**TOWER | dict(image_size=16)),
            text_config=t.LlamaConfig(**TEXT),
            image_token_id=IMAGE,
            scale_factor=2,
            pad_token_id=0,
            tie_word_embeddings=True,
        )
    )


def idefics3():
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

    return _idefics(t.Idefics3ForConditionalGeneration, t.Idefics3Config, Idefics3VisionConfig)


def smolvlm():
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

    return _idefics(t.SmolVLMForConditionalGeneration, t.SmolVLMConfig, SmolVLMVisionConfig)


def qwen3_vl_moe():
    config = t.Qwen3VLMoeConfig(
        text_config=MROPE | EXPERTS,
        vision_config=QWEN_TOWER | dict(deepstack_visual_indexes=[0, 1]),
        image_token_id=IMAGE,
        tie_word_embeddings=True,
        **SPECIAL,
    )
    return t.Qwen3VLMoeForConditionalGeneration(config)


def qwen3_5():
    config = t.Qwen3_5Config(
        text_config=MROPE | DELTA,
        vision_config=QWEN_TOWER,
        image_token_id=IMAGE,
        tie_word_embeddings=True,
        **SPECIAL,
    )
    return t.Qwen3_5ForConditionalGeneration(config)


def qwen3_5_moe():
    config = t.Qwen3_5MoeConfig(
        text_config=MROPE | DELTA | EXPERTS | dict(shared_expert_intermediate_size=16),
        vision_config=QWEN_TOWER,
        image_token_id=IMAGE,
        tie_word_embeddings=True,
        **SPECIAL,
    )
    return t.Qwen3_5MoeForConditionalGeneration(config)


def glm4v():
    config = t.Glm4vConfig(
        text_config=TEXT | dict(rope_parameters=ROPE | dict(partial_rotary_factor=1.0)),
        vision_config=GLM_TOWER,
        tie_word_embeddings=True,
        **GLM_IDS,
    )
    return t.Glm4vForConditionalGeneration(config)


def glm46v():
    config = t.Glm46VConfig(
        text_config=TEXT
        | dict(model_type="glm4v_text", rope_parameters=ROPE | dict(partial_rotary_factor=1.0)),
        vision_config=GLM_TOWER | dict(model_type="glm4v_vision"),
        tie_word_embeddings=True,
        **GLM_IDS,
    )
    return t.Glm46VForConditionalGeneration(config)


def glm4v_moe():
    config = t.Glm4vMoeConfig(
        text_config=TEXT
        | dict(
            head_dim=8,
            rope_parameters=ROPE | dict(partial_rotary_factor=1.0),
            n_routed_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
        ),
        vision_config=GLM_TOWER,
        tie_word_embeddings=True,
        **GLM_IDS,
    )
    return t.Glm4vMoeForConditionalGeneration(config)


def _gemma4(**text):
    config = t.Gemma4Config(
        text_config=TEXT
        | dict(
            num_hidden_layers=4,
            max_position_embeddings=256,
            head_dim=8,
            global_head_dim=16,
            sliding_window=6,
            layer_types=["sliding_attention", "full_attention"] * 2,
            vocab_size_per_layer_input=96,
            final_logit_softcapping=30.0,
        )
        | text,
        vision_config=dict(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            pooling_kernel_size=2,
            patch_size=4,
            position_embedding_size=64,
        ),
        audio_config=None,
        image_token_id=IMAGE,
        video_token_id=93,
        boi_token_id=91,
        eoi_token_id=92,
        audio_token_id=95,
    )
    return t.Gemma4ForConditionalGeneration(config)


def gemma4():
    """As the small ones: inputs for each layer, layers that share keys and values."""
    return _gemma4(hidden_size_per_layer_input=8, num_kv_shared_layers=2)


def gemma4_moe():
    """As the large ones: experts, pictures whose tokens see each other both ways."""
    return _gemma4(
        hidden_size_per_layer_input=0,
        use_bidirectional_attention="vision",
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=16,
    )


def lfm2_vl():
    return t.Lfm2VlForConditionalGeneration(
        t.Lfm2VlConfig(
            vision_config=t.Siglip2VisionConfig(
                **{k: v for k, v in TOWER.items() if k != "image_size"},
                num_patches=16,
                vision_use_head=False,
            ),
            text_config=t.Lfm2Config(
                **TEXT | dict(num_hidden_layers=3),
                layer_types=["conv", "full_attention", "conv"],
                conv_L_cache=3,
            ),
            image_token_id=IMAGE,
            downsample_factor=2,
            projector_hidden_size=16,
        )
    )


def minicpmv4_6():
    from transformers.models.minicpmv4_6.configuration_minicpmv4_6 import MiniCPMV4_6VisionConfig

    return t.MiniCPMV4_6ForConditionalGeneration(
        t.MiniCPMV4_6Config(
            text_config=t.Qwen3_5TextConfig(**MROPE | DELTA),
            vision_config=MiniCPMV4_6VisionConfig(**TOWER | dict(image_size=16), insert_layer_id=0),
            insert_layer_id=0,
            image_token_id=IMAGE,
            video_token_id=93,
            tie_word_embeddings=True,
        )
    )


CLASSES = {
    f.__name__: lively(f)
    for f in (
        llava_next,
        llava_onevision,
        pixtral,
        mistral3,
        internvl,
        idefics3,
        smolvlm,
        qwen3_vl_moe,
        glm4v,
        glm46v,
        glm4v_moe,
        qwen3_5,
        qwen3_5_moe,
        gemma4,
        gemma4_moe,
        lfm2_vl,
        minicpmv4_6,
    )
}
