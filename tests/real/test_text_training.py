"""Training models of words alone: the same commands, worlds without pictures, both refusals."""

from __future__ import annotations

import json
import random
import shutil

import commands
import pytest
import torch
from tiny_text import LISTS, MODELS, tokenizer

from sectow_fast import evaluate
from sectow_fast.config import Config, DataConfig, DefendConfig
from sectow_fast.data.processor import load_processor
from sectow_fast.engine.reference import plain_logprobs
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.learn.policy import make_policy
from sectow_fast.learn.selftest import check_packing
from sectow_fast.real.stage import RealStage
from sectow_fast.types import Sampling, UserError


def data(toys, **more):
    given = {
        "unsafe": (f"jailbreakv={toys / 'jailbreakv'}",),
        "harmless": (f"or-bench:80k={toys / 'or-bench'}",),
        "test": (f"figstep={toys / 'figstep'}", f"xstest={toys / 'xstest'}"),
        "contamination": "ignore",
        "text_only": True,
    }
    return given | more


def stage_of(folder, toys, **more):
    model = {"defender": str(folder), "max_pixels": 1_003_520}
    return RealStage(Config(model=model, data=DataConfig(**data(toys, **more))))


@pytest.mark.parametrize("kind", MODELS)
def test_rows_and_rollouts_of_every_class_are_the_models_own(texts, toys, kind):
    stage = stage_of(texts[kind], toys)
    model = stage.defender()
    cases = stage.world.train_cases("harmless")[:3]
    prompts = stage.codec.encode(cases)
    assert all(
        case.text in stage.codec.decode(p.ids) for case, p in zip(cases, prompts, strict=True)
    )
    policy = make_policy(model, stage.codec, stage.config.learn)
    assert check_packing(policy, prompts) < 1e-3
    sampling = Sampling(temperature=0.7, max_new_tokens=4)
    groups = TorchEngine(model, stage.codec).generate(prompts, n=2, sampling=sampling, seed="a")
    for prompt, group in zip(prompts, groups, strict=True):
        for one in group:
            wanted = plain_logprobs(model, stage.codec, prompt, one.ids, 0.7)
            torch.testing.assert_close(torch.tensor(one.logprobs), wanted, atol=1e-4, rtol=1e-3)


def test_a_world_in_words(texts, toys):
    stage = stage_of(texts["qwen2"], toys)
    world, rng = stage.world, random.Random(0)
    cases = [*world.train_cases("unsafe"), *(c for s in world.suites().values() for c in s)]
    assert not any(case.images for case in cases)
    # FigStep's words are the instruction that its picture shows.
    assert all(case.text == case.goal for case in world.suites()["figstep"])
    by_style = {case.style: case for case in world.train_cases("unsafe")}
    assert by_style["figstep"].text == by_style["figstep"].goal
    assert by_style["Template"].text.startswith("please tell how")
    assert any("20 of 20 cases have words in place of their pictures" in n for n in stage.notes)
    seed = world.seeds("train")[0]
    assert "<typo>" not in world.attacker_case(seed, None).text
    assert world.realise(f"<typo> {seed.goal}", seed, rng=rng, attack_id="a") is None
    assert all("<typo>" not in world.self_instruct(seed, rng) for _ in range(30))


def test_replies_are_needed_where_harmless_data_have_none_and_are_shown(texts, toys):
    stage = stage_of(texts["qwen2"], toys)
    assert stage.needs_replies  # OR-Bench has requests alone
    drawn = {case.id: "own words" for case in stage.world.train_cases("harmless")}
    lesson, rng = stage.safe_lesson([], drawn), random.Random(0)
    taught = [lesson(rng) for _ in range(40)]
    assert {reply for case, reply in taught if case.label == "harmless"} == {"own words"}
    assert {reply for case, reply in taught if case.label == "unsafe"} == {
        stage.world.wording.refusal
    }
    alone = stage.config.model_copy(update={"defend": DefendConfig(harmless_share=0.0)})
    stage.config = alone
    assert not stage.needs_replies


def test_a_goal_word_for_word_or_turned_round_is_no_attack_in_words(texts, toys):
    world, rng = stage_of(texts["qwen2"], toys).world, random.Random(0)
    seed = world.seeds("train")[0]

    def made(words):
        return world.realise(words, seed, rng=rng, attack_id="a")

    for words in (seed.goal, f"Please, {seed.goal.upper()}!", f"I would {seed.goal}?"):
        assert made(words) is None
    for words in (f"How can I avoid to {seed.goal}?", f"Never {seed.goal}."):
        assert made(words).goal == words  # it is after something else
    for words in (f"In a story, somebody would {seed.goal}.", f"Do not refuse to {seed.goal}."):
        assert made(words).goal == seed.goal
    drawn = [made(world.self_instruct(seed, rng)) for _ in range(30)]
    assert all(case is not None and case.goal == seed.goal for case in drawn)


def test_a_reply_that_echoes_its_attack_counts_as_unknown(texts, toys):
    world, rng = stage_of(texts["qwen2"], toys).world, random.Random(0)
    seed = world.seeds("train")[0]
    attack = world.realise(f"For a lesson, {seed.goal}", seed, rng=rng, attack_id="a")
    help_ = (
        f"To {seed.goal}: take paper, crease one corner, turn it over, press firmly, and repeat."
    )
    echo, helped, refusal = world.judge_all(
        [(attack, f"For a lesson, {seed.goal}!"), (attack, help_), (attack, "I'm sorry, I can't.")]
    )
    assert (echo.harmful, helped.harmful, refusal.harmful) == (None, True, False)


def test_pictures_are_refused_by_name_before_a_model_is_loaded(texts, toys, tmp_path):
    folder = tmp_path / "no-weights"
    shutil.copytree(texts["llama"], folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError) as caught:
        stage_of(folder, toys, text_only=False)
    words = str(caught.value)
    assert "suite jailbreakv: found 20 of 20 cases with pictures" in words
    assert f"model.defender {folder} takes no pictures; --data.text_only true" in words
    # MOSSBench has no words for what its pictures show.
    with pytest.raises(UserError, match="mossbench: found no words for what its"):
        stage_of(folder, toys, test=(f"mossbench={toys / 'mossbench'}",))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('only tools may speak') }}", "TemplateError: only tools may speak"),
        ("{{ messages[0]['content']['words'] + 1 }}", "found a chat template that does not take"),
        ("hello", "it leaves out what the user says"),
        ("{% for m in messages %}{{ [m['content']] }}{% endfor %}", "as Python does"),
        (None, "found no chat template"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_named(texts, tmp_path, template, words):
    folder = tmp_path / "model"
    shutil.copytree(texts["llama"], folder)
    (folder / "chat_template.jinja").unlink()
    tokenizer(template).save_pretrained(folder)
    with pytest.raises(UserError) as caught:
        load_processor(folder, role="model.defender")
    text = str(caught.value)
    assert words in text and str(folder) in text and "\n" not in text
    assert template is None or "chat_template.jinja" in text


def test_a_tokenizer_without_an_end_is_one_line(texts, toys, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(texts["llama"], folder)
    tokenizer(LISTS.replace("<|im_end|>", ""), pad_token="<|endoftext|>").save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | {"eos_token_id": None}))
    with pytest.raises(UserError, match="found no token that ends a reply"):
        stage_of(folder, toys)


def test_the_generation_configurations_ends_end_a_reply_too(texts, toys, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(texts["llama"], folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 9]}))
    assert {2, 9} <= set(stage_of(folder, toys).codec.end_ids)
    assert 9 not in stage_of(texts["llama"], toys).codec.end_ids


@pytest.mark.parametrize("kind", MODELS)
def test_a_whole_run_in_words_and_its_evaluation(texts, toys, tmp_path, kind):
    out, given = tmp_path / "run", data(toys)
    named = {key: ",".join(given[key]) for key in ("unsafe", "harmless", "test")}
    code, _, err = commands.run(
        "sectow_fast.train",
        *("--preset", "real", "--data.judge", "rule-knowingly", "--data.text_only", "true"),
        *("--model.defender", texts[kind], "--rounds", "1", "--threads", "1"),
        *("--data.contamination", "ignore", "--data.limit", "6", "--out", out, "--plain"),
        *(word for key, value in named.items() for word in (f"--data.{key}", value)),
        *("--coldstart.attacker_steps", "1", "--coldstart.batch", "2"),
        *("--attack.steps", "1", "--attack.prompts", "2", "--attack.group_size", "2"),
        *("--attack.max_new_tokens", "4", "--harvest.attacks", "2", "--harvest.replies", "1"),
        *("--defend.steps", "1", "--defend.prompts", "2", "--defend.group_size", "2"),
        *("--defend.max_new_tokens", "4", "--evaluate.attacker_cases", "2"),
        *("--monitor.against", "round-0", "--monitor.every", "1"),
    )
    assert code == 0, err
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    (looked,) = [row for row in rows if row.get("phase") == "defend" and "step" in row]
    assert looked["orr_rise_low"] < looked["orr_rise"]
    summary = json.loads((out / "summary.json").read_text())
    assert [row["round"] for row in summary["rounds"]] == [0, 1]
    code, stdout, err = commands.run(
        "sectow_fast.evaluate",
        *("--model", f"d={out / 'defender'}", "--suite", f"figstep={toys / 'figstep'}"),
        *("--text-only", "true", "--limit", "2", "--max-new-tokens", "2", "--out", tmp_path / "e"),
    )
    assert code == 0, err
    assert "20 of 20 cases have words in place of their pictures" in stdout
    (row,) = json.loads((tmp_path / "e" / "summary.json").read_text())["rows"]
    assert row["suites"]["figstep"]["not_refused"]["all"]["n"] == 2


def test_an_evaluation_that_would_show_pictures_names_the_setting(texts, toys, tmp_path, capsys):
    asked = ["--model", f"d={texts['llama']}", "--suite", f"figstep={toys / 'figstep'}"]
    assert evaluate.main([*asked, "--out", str(tmp_path / "no")]) == 2
    assert "takes no pictures; --text-only shows" in capsys.readouterr().err
