"""`python -m sectow_fast.check`: what it says of sound checkpoints and of broken ones."""

from __future__ import annotations

import json
import shutil

import pytest

from sectow_fast.check import main


def findings(folder, capsys, *more):
    code = main(["--model", str(folder), "--json", "--threads", "1", *more])
    made = json.loads(capsys.readouterr().out)
    return code, made, {one["name"]: one for one in made["findings"]}


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_a_sound_model_of_words(texts, capsys, kind):
    code, made, found = findings(texts[kind], capsys)
    assert code == 0 and made["trainable"] and made["evaluable"]
    names = ["configuration", "pictures", "memory", "weights", "self-test", "speed"]
    assert set(names[1:]) <= set(found) and all(one["ok"] for n, one in found.items() if n in names)
    assert "'<|im_end|>'" in found["ends"]["found"] and "takes none" in found["pictures"]["found"]
    takes = {"llama": "strings", "gemma3": "lists of parts"}[kind]
    assert takes in found["template"]["found"]


def test_a_model_with_pictures_is_asked_with_one(qwen, capsys):
    code, _, found = findings(qwen, capsys, "--load", "false")
    assert code == 0 and "'<|image_pad|>'" in found["pictures"]["found"]
    # 640 x 480 pixels are over the tiny processor's cap of 16 tokens.
    assert "takes 12 tokens" in found["pictures"]["found"] and "speed" not in found


@pytest.mark.parametrize("change", ["nothing", "template", "class", "weights", "rows"])
def test_what_is_missing_is_named(texts, tmp_path, capsys, change):
    folder = tmp_path / "model"
    shutil.copytree(texts["llama"], folder)
    config = json.loads((folder / "config.json").read_text())
    if change == "nothing":
        (folder / "config.json").unlink()
    elif change == "template":
        (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    elif change == "class":
        config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
        (folder / "config.json").write_text(json.dumps(config))
    elif change == "weights":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    else:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder)
        model.resize_token_embeddings(200)
        model.save_pretrained(folder)
    code, made, found = findings(folder, capsys)
    assert code == 1 and not made["trainable"]
    assert made["evaluable"] == (change == "class")
    words = {
        "nothing": ("configuration", "found no config.json"),
        "template": ("template", "TemplateError: no"),
        "class": ("layout", "found no known layout of mistral"),
        "weights": ("weights", "cannot be loaded"),
        "rows": ("weights", "200 rows for 259 tokens"),
    }
    name, told = words[change]
    assert told in found[name]["found"] and not found[name]["ok"]


def test_mistakes_of_the_command(capsys):
    assert main([]) == 2 and "--model: found none" in capsys.readouterr().err
    assert main(["--modle", "x"]) == 2 and "did you mean --model" in capsys.readouterr().err
