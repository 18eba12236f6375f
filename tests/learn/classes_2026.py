"""Tiny random models of the classes of 2026, with three pictures for each, of other shapes."""

from __future__ import annotations

import torch
import transformers as t
from families import IMAGE, ROPE, SHAPES, SPECIAL, TEXT, VISION, Codec, lively

from sectow_fast.families import join_pixels

BREAK = 94  # a token of the text between rows or tiles of a picture
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


def _tiles(draw, model, height, width):
    """The whole picture and its tiles; a part of the last ones is cut off again."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    size = (4 * height - 1, 4 * width)
    count = image_size_to_num_patches(size, model.config.image_grid_pinpoints, 8)
    pixels = torch.randn(1, count, 3, 8, 8, generator=draw)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([size])}


def _any_size(draw, model, height, width):
    size = (
        (2 * height, 2 * width) if model.config.model_type == "llava" else (4 * height, 4 * width)
    )
    pixels = torch.randn(1, 3, *size, generator=draw)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([size])}


def _squares(draw, model, height, width):
    count = height * width // 16
    pixels = torch.randn(count, 3, 16, 16, generator=draw)
    return {"pixel_values": pixels, "num_patches": torch.tensor([count])}


def _masked_squares(draw, model, height, width):
    count = height * width // 16
    pixels = torch.randn(1, count, 3, 16, 16, generator=draw)
    mask = torch.ones(1, count, 16, 16, dtype=torch.long)
    if height > width:
        mask[..., 8:] = 0  # a tile that the picture does not fill
    return {"pixel_values": pixels, "pixel_attention_mask": mask}


def _filled_up(draw, model, height, width):
    """Patches, filled up to 40."""
    places = torch.full((1, 40, 2), -1)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places[0, : height * width] = torch.stack([columns, rows], -1).flatten(0, 1)
    pixels = torch.zeros(1, 40, 3 * 4 * 4)
    pixels[0, : height * width] = torch.rand(height * width, 3 * 4 * 4, generator=draw)
    count = torch.tensor([height * width // 4])
    kind = {"pixel_values": pixels, "image_position_ids": places}
    return kind | {"num_soft_tokens_per_image": count}


def _tiles_of_any_size(draw, model, height, width):
    """A wide picture has two tiles and the whole one behind, another one is a tile alone; all are
    filled up to 40 patches."""
    shapes = [(4, 4), (4, 4), (2, 4)] if width > height else [(height, width)]
    pixels, mask = torch.zeros(len(shapes), 40, 3 * 4 * 4), torch.zeros(len(shapes), 40)
    for at, (rows, columns) in enumerate(shapes):
        pixels[at, : rows * columns] = torch.randn(rows * columns, 3 * 4 * 4, generator=draw)
        mask[at, : rows * columns] = 1
    return {
        "pixel_values": pixels,
        "pixel_attention_mask": mask.long(),
        "spatial_shapes": torch.tensor(shapes),
        "image_rows": torch.tensor([1]),
        "image_cols": torch.tensor([2 if len(shapes) > 1 else 1]),
    }


def _slices(draw, model, height, width):
    """A wide picture has two slices behind."""
    shapes = [(4, 8), (4, 4), (4, 4)] if width > height else [(height, width)]
    patches = sum(rows * columns for rows, columns in shapes)
    return {
        "pixel_values": torch.randn(1, 3, 4, 4 * patches, generator=draw),
        "target_sizes": torch.tensor(shapes),
        "grids": torch.tensor([[1, 2] if len(shapes) > 1 else [0, 0]]),
        "num_patches_per_image": torch.tensor([len(shapes)]),
    }


# Pictures by the class's `model_type`, where they are not patches with a grid.
PIXELS = {
    "llava_next": _tiles,
    "llava_onevision": _tiles,
    "llava": _any_size,
    "mistral3": _any_size,
    "internvl": _squares,
    "idefics3": _masked_squares,
    "smolvlm": _masked_squares,
    "gemma4": _filled_up,
    "lfm2_vl": _tiles_of_any_size,
    "minicpmv4_6": _slices,
}
# The placeholders between which tokens of the text stand: in rows or tiles of so many tokens.
ROWS = {"llava": "row", "mistral3": "row", "idefics3": 4, "smolvlm": 4}


def placeholders(kind: str, pixels, count: int, cell: int) -> list[int]:
    """A picture's tokens as the processor of its class writes them."""
    if kind not in ROWS:
        return [IMAGE] * count
    size = int(pixels["image_sizes"][0, 1]) // cell if ROWS[kind] == "row" else ROWS[kind]
    return [one for _ in range(count // size) for one in ([IMAGE] * size + [BREAK])]


class Pictures(Codec):
    """A codec whose pictures are as the processors of these classes give them."""

    banned_ids = (0, IMAGE, 91, 92, 93, BREAK)

    def pictures(self, model):
        make = PIXELS.get(self.family.name)
        if make is None:
            return super().pictures(model)
        draw = torch.Generator().manual_seed(7)
        return {key: make(draw, model, *shape) for key, shape in SHAPES.items()}

    def pixel_inputs(self, prompts):
        found = [self.pixels[key] for p in prompts for key in p.images]
        return join_pixels(found) if found else {}

    def shown(self, image: str) -> list[int]:
        pixels = self.pixels[image]
        (count,) = self.family.image_tokens(pixels)
        return placeholders(self.family.name, pixels, count, getattr(self.family, "cell", 1))
