"""The presets' model class through SGLang's own Qwen2.5-VL: log-probs, images, sync by names."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_qwen
import torch
from PIL import Image, ImageDraw

from sectow_fast.config import Config, EngineConfig
from sectow_fast.data.codec import ChatCodec
from sectow_fast.engine.kinds import EngineSetup
from sectow_fast.engine.reference import plain_logprobs
from sectow_fast.engine.sglang_kind import SGLangEngines
from sectow_fast.types import Case, Sampling


class Pictures:
    """Two pictures of different sizes, so of different numbers of tokens."""

    def size(self, key: str) -> tuple[int, int]:
        return {"wide": (140, 84), "tall": (84, 168)}[key]

    def open(self, key: str) -> Image.Image:
        width, height = self.size(key)
        picture = Image.new("RGB", (width, height), "white")
        ImageDraw.Draw(picture).ellipse((10, 10, width - 10, height - 20), fill="darkgreen")
        return picture


@pytest.fixture(scope="module")
def codec():
    made = ChatCodec(tiny_qwen.processor(), Pictures())
    # A random model writes tokens that announce an image or a video, which no trained one does.
    ids = made.tokenizer.convert_tokens_to_ids([w for w in tiny_qwen.SPECIAL if w != "<|im_end|>"])
    made.banned_ids = tuple(sorted({*made.banned_ids, *ids}))
    return made


@pytest.fixture(scope="module")
def engine(codec, tmp_path_factory):
    model = tiny_qwen.model(codec.tokenizer)

    def write(folder):
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        codec.processor.save_pretrained(folder)

    config = Config(engine=EngineConfig(kind="sglang", max_running=16, context_length=512))
    engines = SGLangEngines(
        EngineSetup(
            config=config,
            codec=codec,
            folder=tmp_path_factory.mktemp("qwen"),
            write_folder=write,
        )
    )
    made = engines.of("defender", model)
    made.server.start()  # before it has weights, as on an empty GPU
    assert made.server.asleep and made.server.process.info["cache_tokens"] == 65536
    yield made
    engines.close()


def test_log_probs_and_sync_of_a_qwen2_5_vl(engine, codec):
    cases = [
        Case(id="a", text="what is this", label="harmless", image="wide"),
        Case(id="b", text="and what is that, please", label="harmless", image="tall"),
        Case(id="c", text="no picture here", label="harmless"),
        Case(
            id="several",
            text="see and",
            label="harmless",
            parts=(("image", "wide"), ("text", "and"), ("image", "tall"), ("image", "wide")),
        ),
    ]
    prompts = codec.encode(cases)
    assert len(engine.shapes) == len(dict(engine.model.named_parameters()))
    for _ in range(3):
        groups = engine.generate(prompts, n=3, sampling=Sampling(max_new_tokens=8), seed="q")
        for prompt, group in zip(prompts, groups, strict=True):
            for one in group:
                ours = plain_logprobs(engine.model, codec, prompt, one.ids, 1.0)
                torch.testing.assert_close(torch.tensor(one.logprobs), ours, atol=5e-5, rtol=1e-4)
        with torch.no_grad():
            for parameter in engine.model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        engine.sync(engine.model)
    assert engine.server.starts == 1
    # One copy of a picture for its three samples, and none is left over.
    assert "pixels are copied for every request" not in engine.server.log.read_text()
    host = engine.server.process.info["pid"]
    assert not list(Path("/dev/shm").glob(f"sgl_shm_mm_{host}_*"))
