"""The memory plan: tracked on fake tensors, and the same as a real step's within a tenth."""

from __future__ import annotations

import families
import pytest
import torch
import transformers

from sectow_fast.config import Config, GRPOConfig, LearnConfig, LossConfig
from sectow_fast.learn import memory
from sectow_fast.learn.memory import GIB, memory_plan, model_config, plan_memory, settled
from sectow_fast.learn.policy import make_policy
from sectow_fast.learn.shapes import ProbeCodec, TrainingPeak, probe_groups, tracked, training_peak
from sectow_fast.types import UserError


@pytest.fixture(autouse=True)
def no_process_group_is_left():
    """A real step makes a world of one, in whose place a plan makes a world of its own."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


PLAIN = GRPOConfig(max_new_tokens=8, tokens_per_batch=128)
LOW = {"dtype": "bfloat16", "gradient_checkpointing": True}


@pytest.mark.parametrize(
    ("name", "learn"),
    [
        ("qwen2_5_vl", LOW),
        ("llava", LOW),
        ("llava", {}),
        ("llava", LOW | {"lora_rank": 4}),
    ],
)
@pytest.mark.parametrize("loss", [{}, {"kl_coef": 0.1}])
def test_plan_and_a_real_step_agree_within_a_tenth(name, learn, loss):
    learn = LearnConfig(**learn)
    GRPO = PLAIN.model_copy(update={"loss": LossConfig(**loss)})
    model = getattr(families, name)()
    config = model.config
    plan = training_peak(config, learn, GRPO, context=40)
    codec = ProbeCodec(families.family_of(model), config, 31)
    policy = make_policy(model, codec, learn, apart=True)
    groups = probe_groups(codec, policy.family, prompt=32, reply=8, tokens=GRPO.tokens_per_batch)
    real = tracked(policy, 2 * groups, GRPO)
    assert plan.masters + plan.gradients + plan.work == pytest.approx(real, rel=0.1)
    assert plan.masters == sum(p.numel() * 4 for p in policy.parameters())
    trained = sum(p.numel() * 4 for p in policy.parameters() if p.requires_grad)
    assert (plan.gradients, plan.optimizer) == (trained, 2 * trained)


def test_ranks_share_masters_and_not_the_work():
    config = families.llava().config
    one, four = (
        training_peak(config, LearnConfig(**LOW), PLAIN, context=40, world=n) for n in (1, 4)
    )
    assert four.masters == pytest.approx(one.masters / 4, rel=0.05)
    assert four.gradients == one.gradients and four.work > one.work / 2


def test_a_loss_in_two_passes_takes_the_heads_scratch_too():
    """GSPO goes through the log-probs' operator, and so does a supervised step."""
    config = families.qwen2().config
    sequence = PLAIN.model_copy(update={"loss": LossConfig(ratio="sequence")})
    token, other = (
        training_peak(config, LearnConfig(**LOW), grpo, context=40) for grpo in (PLAIN, sequence)
    )
    assert other.work >= token.work


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("Qwen2.5-VL-3B-Instruct", 3_754_622_976), ("qwen2.5-vl-7b", 8_292_166_656)],
)
def test_known_models_have_their_published_size(name, parameters):
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(model_config(name))
    model.tie_weights()
    assert sum(p.numel() for p in model.parameters()) == parameters


PEAK = TrainingPeak(
    masters=4 * GIB, optimizer=8 * GIB, gradients=4 * GIB, work=5 * GIB, unit=GIB, parameters=GIB
)
SHAPE = dict(
    reference=False, tp=1, cache_bytes=2**15, least=32 * 1024, most=64 * 1024, bucket=2**29
)


def test_phases_are_sums_of_what_lives_then():
    here, away = (
        plan_memory(PEAK, roles="two", offload=offload, gpu=60 * GIB, **SHAPE)
        for offload in (False, True)
    )
    assert sum(here.phases["train"].values()) == (8 + 8 + 1 + 4 + 5 + 3) * GIB
    assert sum(away.phases["train"].values()) == (1 + 5 + 1 + 3) * GIB
    assert away.host - here.host == (3 * 4 + 8) * GIB
    loaded = plan_memory(
        PEAK, roles="two", offload=False, gpu=60 * GIB, **SHAPE | {"reference": True}
    )
    assert loaded.host - here.host == 4 * GIB and loaded.phases == here.phases
    assert here.phases["rollout"]["engine weights"] == 4 * GIB
    assert here.cache_tokens == 64 * 1024 and here.fits
    small = plan_memory(PEAK, roles="two", offload=True, gpu=8 * GIB, **SHAPE)
    assert small.cache_tokens == 32 * 1024 and not small.fits


@pytest.fixture
def folder(tmp_path):
    families.llava().config.save_pretrained(tmp_path)
    return str(tmp_path)


def planned(monkeypatch, folder, gib: float, **sections) -> Config:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(memory, "training_peak", lambda *_, **__: PEAK)
    engine = dict(kind="sglang", device="cuda", gpu_gib=gib, context_length=128, max_running=32)
    return Config(engine=engine, model={"defender": folder}, **sections)


@pytest.mark.parametrize(
    ("gib", "roles", "offload"),
    [(60, "two", False), (28, "swap", False), (24, "two", True), (10, "swap", True)],
)
def test_two_engines_then_one_then_offload(monkeypatch, folder, gib, roles, offload):
    config = planned(monkeypatch, folder, gib)
    plan = memory_plan(config)
    assert (plan.roles, plan.offload, plan.fits) == (roles, offload, True)
    monkeypatch.setattr(memory.os, "sysconf", lambda name: 2**20)  # a host of 1 TiB
    found = settled(config)
    assert (found.engine.roles, found.learn.offload) == (roles, "on" if offload else "off")
    assert found.engine.kv_tokens == plan.cache_tokens == 32 * 128
    fixed = planned(monkeypatch, folder, gib, learn={"offload": "on"})
    assert memory_plan(fixed).offload


def test_too_small_a_gpu_or_host_is_refused_in_one_line(monkeypatch, folder):
    with pytest.raises(UserError, match=r"GiB on a GPU in its phase 'train'.*at most 5 GiB"):
        settled(planned(monkeypatch, folder, 5))
    monkeypatch.setattr(memory.os, "sysconf", lambda name: 2**17)  # a host of 16 GiB
    with pytest.raises(UserError, match=r"learn\.offload on: found 28 GiB.*at most 16 GiB"):
        settled(planned(monkeypatch, folder, 10))


def test_nothing_is_planned_on_a_cpu_or_for_the_sandbox(monkeypatch, folder):
    config = planned(monkeypatch, folder, 60)
    for other in (
        config.model_copy(update={"model": Config().model}),
        config.model_copy(update={"engine": config.engine.model_copy(update={"device": "cpu"})}),
        Config(model={"defender": folder}),
    ):
        assert memory_plan(other) is None and settled(other) is other


@pytest.mark.parametrize(("replicas", "gpus"), [(2, 1), (3, 8)])
def test_replicas_are_checked_before_anything_is_planned(monkeypatch, folder, replicas, gpus):
    config = planned(monkeypatch, folder, 60, learn={"replicas": replicas})
    engine = config.engine.model_copy(update={"gpus": gpus})
    with pytest.raises(UserError, match=rf"learn\.replicas: found {replicas} on {gpus} ranks"):
        memory_plan(config.model_copy(update={"engine": engine}))


def test_a_missing_model_is_named():
    with pytest.raises(UserError, match=r"/nowhere: found no config\.json"):
        model_config("/nowhere")
