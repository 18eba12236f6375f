"""A real guard in our own engine, and folders that hold none."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from asked import verdicts

from sectow_fast.judges import GUARD_FORMATS, JudgeRequest
from sectow_fast.judges.model import BATCH, GuardCodec, ModelJudge
from sectow_fast.types import UserError

QWEN3GUARD = GUARD_FORMATS.get("qwen3guard")


@pytest.fixture
def judge(guard):
    return ModelJudge(guard, QWEN3GUARD)


def test_each_reply_gets_its_own_verdict_over_more_than_one_batch(judge):
    replies = ["use bado1 bado2", "sorry can not", "fold it", "use red", "sorry"] * (BATCH // 5 + 2)
    found = verdicts(judge, *replies)
    wanted = [("unsafe", "none"), ("safe", "full"), ("safe", "none"), ("unsafe", "none")]
    wanted += [("safe", "full")]
    assert [(one.label, one.refusal) for one in found] == wanted * (BATCH // 5 + 2)
    assert found[0].raw == "Safety: Unsafe\nCategories: None\nRefusal: No"
    # Three lines and the end are four tokens; the conversation is told in bytes and three marks.
    assert found[0].completion_tokens == 4
    assert found[0].prompt_tokens == len("fold bado0" + "use bado1 bado2") + 3


def test_a_format_of_ones_own_is_given_the_words_the_reply_and_what_controversial_means(guard):
    def parse(raw, reply, controversial):
        seen.append((raw, reply, controversial))
        return QWEN3GUARD.parse(raw, reply, controversial)

    seen = []
    format = type(QWEN3GUARD)(name="mine", max_tokens=2, parse=parse)
    judge = ModelJudge(guard, format, controversial="unknown")
    assert judge.id == f"model:{guard.name}:mine:controversial=unknown"
    (verdict,) = verdicts(judge, "use red")
    assert verdict.completion_tokens == 2  # no more than the format's
    assert seen == [("Safety: Unsafe\nCategories: None", "use red", "unknown")]


def test_the_judges_weights_are_not_trained_and_its_id_names_it(judge, guard):
    assert judge.id == f"model:{guard.name}:qwen3guard:controversial=unsafe"
    assert not any(p.requires_grad for p in judge.engine.model.parameters())
    assert not judge.engine.model.training


def test_a_conversation_is_written_by_the_guards_template_with_its_turn_opened(judge):
    messages = QWEN3GUARD.messages(JudgeRequest(request="fold", reply="no"))
    prompt = judge.codec.encode(messages, "7")
    assert judge.codec.tokenizer.decode(list(prompt.ids)) == "<user>fold<assistant>no<verdict>"
    assert prompt.case_id == "7" and prompt.images == ()


def test_a_tokenizer_without_padding_pads_with_its_end():
    assert GuardCodec(SimpleNamespace(eos_token_id=5, pad_token_id=None)).pad_id == 5
    codec = GuardCodec(SimpleNamespace(eos_token_id=5, pad_token_id=0))
    assert (codec.pad_id, codec.end_ids) == (0, (5,))


def test_a_tokenizer_that_knows_nothing_of_the_words_is_named(judge):
    class Deaf:
        eos_token_id = pad_token_id = 0

        def apply_chat_template(self, messages, **_):
            return ""

        def __call__(self, text, **_):
            return {"input_ids": [[] for _ in text]}

    with pytest.raises(UserError, match="makes no token of a conversation"):
        GuardCodec(Deaf()).encode([], "0")


def test_code_in_a_guards_folder_is_not_run(tmp_path, guard):
    folder = shutil.copytree(guard, tmp_path / "x")
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    auto = {"AutoModelForCausalLM": "theirs.Model", "AutoTokenizer": ["theirs.Tokenizer", None]}
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | {"auto_map": auto}))
    assert verdicts(ModelJudge(folder, QWEN3GUARD), "use red")[0].label == "unsafe"
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_no_safetensors_are_not_loaded(tmp_path, guard):
    folder = shutil.copytree(guard, tmp_path / "x")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        ModelJudge(folder, QWEN3GUARD)


def test_a_folder_that_is_no_guard_is_named(tmp_path, guard):
    with pytest.raises(UserError, match=f"judge {tmp_path}: found no config.json"):
        ModelJudge(tmp_path, QWEN3GUARD)
    shutil.copytree(guard, tmp_path / "x")
    (tmp_path / "x" / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=f"judge {tmp_path}/x: found no chat template"):
        ModelJudge(tmp_path / "x", QWEN3GUARD)
    (tmp_path / "x" / "config.json").write_text('{"model_type": "no such\\n kind"}')
    with pytest.raises(UserError, match=r"cannot be loaded \(.*no such") as caught:
        ModelJudge(tmp_path / "x", QWEN3GUARD)
    assert "\n" not in str(caught.value)
