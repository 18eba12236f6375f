"""A folder that holds one GGUF file in place of config.json, read by transformers' own reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_text import STRINGS, tokenizer

gguf = pytest.importorskip("gguf", reason="pip install 'sectow-fast[smol]'")

from sectow_fast.check import main  # noqa: E402
from sectow_fast.config import Config, DataConfig  # noqa: E402
from sectow_fast.data.processor import load_model, load_processor  # noqa: E402
from sectow_fast.model_folder import reading  # noqa: E402
from sectow_fast.real.stage import RealStage  # noqa: E402
from sectow_fast.types import UserError  # noqa: E402

WIDTH, INNER, HEADS, LAYERS = 32, 64, 4, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny random Llama in one file, as llama.cpp writes it."""
    place = tmp_path_factory.mktemp("gguf")
    words = tokenizer()
    named = sorted(words.get_vocab().items(), key=lambda one: one[1])
    named.append(("ab", len(named)))  # what the one merge makes
    writer = gguf.GGUFWriter(str(place / "tiny.gguf"), "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(named))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([word for word, _ in named])
    writer.add_token_types([3 if word.startswith("<|") else 1 for word, _ in named])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(words.eos_token_id)
    writer.add_pad_token_id(words.eos_token_id)
    writer.add_chat_template(STRINGS)
    rng = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.normal(0, 0.2, shape).astype(np.float32))

    add("token_embd.weight", len(named), WIDTH)
    add("output_norm.weight", WIDTH)
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}.weight", WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            add(f"blk.{layer}.{name}.weight", INNER, WIDTH)
        add(f"blk.{layer}.ffn_down.weight", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return place


def test_it_is_read_checked_and_saved_as_plain_weights(folder, toys, tmp_path, capsys):
    assert main(["--model", str(folder), "--threads", "1"]) == 0
    assert "LlamaForCausalLM (llama)" in capsys.readouterr().out
    data = DataConfig(
        unsafe=(f"jailbreakv={toys / 'jailbreakv'}",),
        harmless=(f"or-bench:80k={toys / 'or-bench'}",),
        test=(f"xstest={toys / 'xstest'}",),
        contamination="ignore",
        text_only=True,
    )
    stage = RealStage(Config(model={"defender": str(folder)}, data=data))
    model = stage.defender()
    stage.save(model, tmp_path / "saved")
    again = load_model(tmp_path / "saved", dtype="float32")
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(ids).logits, again(ids).logits)
    saved = load_processor(tmp_path / "saved")
    assert saved.chat_template == STRINGS and saved.strings
    assert not reading(tmp_path / "saved") and not list((tmp_path / "saved").glob("*.gguf"))


def test_two_files_are_one_line(folder, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes((folder / "tiny.gguf").read_bytes())
    with pytest.raises(UserError, match=r"found 2 GGUF files \(a.gguf, b.gguf\), expected"):
        load_processor(tmp_path)
