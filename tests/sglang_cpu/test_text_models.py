"""Models of words alone through SGLang's own classes: log-probs, ends, sync by names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "evaluate"))

from tiny_text import save_text

from sectow_fast.config import Config, EngineConfig
from sectow_fast.data.codec import ChatCodec
from sectow_fast.data.processor import load_model, load_processor
from sectow_fast.engine.kinds import EngineSetup
from sectow_fast.engine.reference import plain_logprobs
from sectow_fast.engine.sglang_kind import SGLangEngines
from sectow_fast.types import Case, Sampling


@pytest.mark.parametrize("kind", ["qwen2", "gemma3"])
def test_log_probs_and_sync(kind, tmp_path):
    folder = save_text(tmp_path / "model", kind)
    model = load_model(folder, dtype="float32")
    codec = ChatCodec(load_processor(folder), None)

    def write(place):
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(place)
        codec.processor.save_pretrained(place)

    config = Config(engine=EngineConfig(kind="sglang", max_running=16, context_length=512))
    setup = EngineSetup(config=config, codec=codec, folder=tmp_path / "e", write_folder=write)
    engines = SGLangEngines(setup)
    try:
        engine = engines.of("defender", model)
        cases = [Case(id=w, text=w, label="harmless") for w in ("what is this", "and that")]
        prompts = codec.encode(cases)
        for _ in range(2):
            groups = engine.generate(prompts, n=2, sampling=Sampling(max_new_tokens=6), seed="q")
            for prompt, group in zip(prompts, groups, strict=True):
                for one in group:
                    ours = plain_logprobs(model, codec, prompt, one.ids, 1.0)
                    torch.testing.assert_close(
                        torch.tensor(one.logprobs), ours, atol=5e-5, rtol=1e-4
                    )
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.02)
            engine.sync(model)
    finally:
        engines.close()
