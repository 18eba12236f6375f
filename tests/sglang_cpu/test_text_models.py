"""Models of words alone through SGLang's own classes: log-probs, greedy tokens, sync by names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "evaluate"))

from tiny_text import MODELS, save_text

from sectow_fast.config import Config, EngineConfig
from sectow_fast.data.codec import ChatCodec
from sectow_fast.data.processor import load_model, load_processor
from sectow_fast.engine.kinds import EngineSetup
from sectow_fast.engine.reference import plain_logprobs
from sectow_fast.engine.sglang_kind import SGLangEngines
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.types import Case, Sampling

GREEDY = Sampling(temperature=0.0, max_new_tokens=6)


@pytest.mark.parametrize("kind", MODELS)
def test_log_probs_greedy_tokens_and_sync(kind, tmp_path):
    folder = save_text(tmp_path / "model", kind)
    model = load_model(folder, dtype="float32")
    codec = ChatCodec(load_processor(folder), None)

    def write(place):
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(place)
        codec.processor.save_pretrained(place)

    config = Config(engine=EngineConfig(kind="sglang", max_running=16, context_length=512))
    setup = EngineSetup(config=config, codec=codec, folder=tmp_path / "e", write_folder=write)
    engines, ours = SGLangEngines(setup), TorchEngine(model, codec)
    try:
        engine = engines.of("defender", model)
        cases = [Case(id=w, text=w, label="harmless") for w in ("what is this", "and that")]
        prompts, said = codec.encode(cases), []
        for _ in range(2):
            groups = engine.generate(prompts, n=2, sampling=Sampling(max_new_tokens=6), seed="q")
            for prompt, group in zip(prompts, groups, strict=True):
                for one in group:
                    wanted = plain_logprobs(model, codec, prompt, one.ids, 1.0)
                    torch.testing.assert_close(
                        torch.tensor(one.logprobs), wanted, atol=5e-5, rtol=1e-4
                    )
            told, wanted = (
                [group[0].ids for group in one.generate(prompts, n=1, sampling=GREEDY, seed="g")]
                for one in (engine, ours)
            )
            assert told == wanted
            said.append(told)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.2)
            engine.sync(model)
            ours.sync(model)
        assert said[0] != said[1]  # of the weights that were pushed
    finally:
        engines.close()
