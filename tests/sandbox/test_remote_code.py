"""Code in a model's folder is not run, and no question is asked of a terminal."""

from __future__ import annotations

import builtins
import json

import pytest

from sectow_fast.types import UserError

CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import PretrainedConfig, PreTrainedModel
class Config(PretrainedConfig):
    model_type = "their-own"
class Model(PreTrainedModel):
    config_class = Config
"""


@pytest.mark.parametrize("model_type", ["their-own", "llava"])
def test_a_models_own_code_is_neither_run_nor_asked_about(stage, tmp_path, monkeypatch, model_type):
    mark = tmp_path / "it ran"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "code.py").write_text(CODE.format(mark=str(mark)))
    named = {"AutoConfig": "code.Config", "AutoModelForImageTextToText": "code.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, "auto_map": named}))
    asked = []
    monkeypatch.setattr(builtins, "input", lambda *words: asked.append(words) or "y")
    with pytest.raises(UserError, match=r"cannot be loaded"):
        stage.load(folder)
    assert not asked and not mark.exists()
