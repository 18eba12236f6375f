"""In the real OpenRLHF: our `PolicyLoss` gives what its own gives, in its own training step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from sectow_fast.adapters.openrlhf import PolicyLoss
from sectow_fast.kernels import group_advantage

ROWS, TOKENS = 12, 7
WHOLE = {"dp_size": 2, "batch_num_tokens": torch.tensor(91.0), "global_batch_size": 24.0}


@pytest.fixture(scope="session")
def their_loss(openrlhf):
    from openrlhf.models import PolicyLoss as Theirs

    return Theirs


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    """Log-probs far enough apart that every clip and every band is met; rows of 1 to TOKENS."""
    make = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=make)  # noqa: E731
    lengths = torch.arange(1, ROWS + 1).clamp(max=TOKENS)
    old = -draw(ROWS, TOKENS).abs() - 0.3
    return {
        "log_probs": (old + 0.5 * draw(ROWS, TOKENS)).requires_grad_(),
        "old_log_probs": old,
        "advantages": draw(ROWS, TOKENS),
        "action_mask": torch.arange(TOKENS) < lengths[:, None],
        "rollout_log_probs": old + 0.4 * draw(ROWS, TOKENS),
    }


OPTIONS = {
    "ppo": {},
    "decoupled clip": {"clip_eps_low": 0.1, "clip_eps_high": 0.3},
    "dual clip": {"dual_clip": 1.3},
    "by sample": {"token_level_loss": False},
    "gspo": {"policy_loss_type": "gspo", "clip_eps_low": 0.03, "clip_eps_high": 0.04},
    "gspo over the rollout": {"policy_loss_type": "gspo", "is_correction_level": "token"},
    "token mask": {"is_correction_level": "token", "is_correction_threshold": [0.8, 1.3]},
    "token clip": {
        "is_correction_level": "token",
        "is_correction_mode": "clip",
        "is_correction_threshold": [0.8, 1.3],
    },
    "sequence mask": {"is_correction_level": "seq", "is_correction_threshold": [0.9, 1.1]},
    "token binary kl": {
        "is_correction_level": "token",
        "is_correction_gating": "binary_kl",
        "is_correction_threshold": [0, 0.02],
    },
    "sequence binary kl": {
        "is_correction_level": "seq",
        "is_correction_gating": "binary_kl",
        "is_correction_threshold": [0, 0.05],
    },
    "token variation": {
        "is_correction_level": "token",
        "is_correction_gating": "tv",
        "is_correction_threshold": [0, 0.1],
        "dual_clip": 1.3,
    },
}


@pytest.mark.parametrize("info", [{}, WHOLE], ids=["alone", "over ranks"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_openrlhfs_own(their_loss, name, info):
    given = batch()
    found = []
    for kind in (their_loss, PolicyLoss):
        loss, *measures = kind(**OPTIONS[name])(**given, **info)
        (gradient,) = torch.autograd.grad(loss, given["log_probs"])
        found.append([loss.detach(), gradient, *measures])
    assert found[0][1].abs().max() > 1e-4
    for place, (want, got) in enumerate(zip(*found, strict=True)):
        assert (want is None) == (got is None), place
        if want is not None:
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6, msg=f"{name} {place}")


REFUSED = (
    {"is_correction_level": "row"},
    {"is_correction_mode": "drop"},
    {"is_correction_gating": "kl"},
    {"is_correction_mode": "clip", "is_correction_level": "seq"},
    {"is_correction_level": "token", "is_correction_gating": "tv"},
    {"dual_clip": 0.9},
)


@pytest.mark.parametrize("options", REFUSED, ids=str)
def test_what_openrlhf_refuses_is_refused(their_loss, options):
    with pytest.raises((ValueError, AssertionError)):
        their_loss(**options)
    with pytest.raises(ValueError, match="found"):
        PolicyLoss(**options)


def test_a_loss_type_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="policy_loss_type: found 'sapo', expected one of ppo"):
        PolicyLoss(policy_loss_type="sapo")


@pytest.mark.parametrize("name", OPTIONS)
def test_what_a_masked_token_holds_never_matters(name):
    given = batch(1)
    spoiled = {n: t.detach().clone() for n, t in given.items()}
    for one in ("log_probs", "old_log_probs", "advantages", "rollout_log_probs"):
        spoiled[one][~given["action_mask"]] = torch.nan
    kind = PolicyLoss(**OPTIONS[name])
    for want, got in zip(kind(**given), kind(**spoiled), strict=True):
        assert want is got is None or want == got


def test_the_lines_of_the_page_are_those_that_openrlhf_has(openrlhf):
    """They replace one import of the host's, which must be there to be replaced."""
    from openrlhf.trainer.ray import ppo_actor

    page = (Path(__file__).parents[2] / "docs" / "EMBEDDING.md").read_text()
    lines = page.split("## In OpenRLHF")[1].split("```python\n")[1].split("```")[0]
    source = Path(ppo_actor.__file__).read_text()
    theirs = "from openrlhf.models import Actor, PolicyLoss, aggregate_loss\n"
    assert source.count(theirs) == 1
    scope: dict = {
        "__name__": "openrlhf.trainer.ray.ppo_actor",
        "__package__": ppo_actor.__package__,
    }
    exec(compile(source.replace(theirs, lines), ppo_actor.__file__, "exec"), scope)
    assert scope["PolicyLoss"] is PolicyLoss


# --- OpenRLHF's own training step ---------------------------------------------------------------


def tiny_actor(openrlhf):
    from openrlhf.models import Actor

    torch.manual_seed(0)
    actor = Actor(
        Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=300,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                initializer_range=0.2,
            )
        ),
        temperature=0.9,
    )
    actor.packing_samples = False  # set by OpenRLHF where it loads the model itself
    return actor


class OneProcess:
    """What OpenRLHF's trainer asks of its strategy, by plain torch in place of DeepSpeed."""

    ring_attn_group = None

    def __init__(self, actor, optimizer):
        self.args = SimpleNamespace(
            actor=SimpleNamespace(entropy_coef=0.01),
            algo=SimpleNamespace(
                kl=SimpleNamespace(
                    use_loss=True, init_coef=0.1, estimator="k3", unbiased_gradient=False
                )
            ),
            train=SimpleNamespace(dynamic_batch_enable=False),
        )
        self.actor, self.optimizer, self.norms = actor, optimizer, []

    def backward(self, loss, *_):
        loss.backward()

    def optimizer_step(self, *_, **__):
        norm = torch.nn.utils.clip_grad_norm_(self.actor.parameters(), 1.0)
        self.norms.append(float(norm))
        self.optimizer.step()
        self.optimizer.zero_grad()

    def get_grad_norm(self, _):
        return self.norms[-1]


def experience(step: int):
    from openrlhf.trainer.ppo_utils.experience import Experience

    make = torch.Generator().manual_seed(step)
    ids = torch.randint(0, 300, (8, 5 + TOKENS), generator=make)
    lengths = torch.randint(1, TOKENS + 1, (8, 1), generator=make)
    mask = torch.arange(TOKENS) < lengths
    old = -torch.rand(8, TOKENS, generator=make) - 5.5
    return Experience(
        sequences=ids,
        action_mask=mask,
        attention_mask=torch.cat([torch.ones(8, 5, dtype=torch.bool), mask], 1).long(),
        action_log_probs=old,
        base_action_log_probs=old + 0.1,
        rollout_log_probs=old - 0.05,
        advantages=torch.randn(8, 1, generator=make).expand(8, TOKENS),
        info={},
    )


def train(openrlhf, loss) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer

    actor = tiny_actor(openrlhf)
    optimizer = torch.optim.SGD(actor.parameters(), lr=0.1)
    # The constructor wants Ray and CUDA; what the step itself uses is set here.
    trainer = object.__new__(ActorPPOTrainer)
    trainer.strategy = OneProcess(actor, optimizer)
    trainer.args = trainer.strategy.args
    trainer.actor, trainer.actor_optim, trainer.actor_loss_fn = actor, optimizer, loss
    trainer.actor_scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    trainer.replay_buffer, trainer.ema_model, trainer.aux_loss = None, None, False
    rows = []
    for step in range(20):
        metrics = trainer.training_step(experience(step), 0.1, step)["metrics"]
        rows.append({name: float(torch.as_tensor(v).mean()) for name, v in metrics.items()})
    return rows, dict(actor.named_parameters())


def test_twenty_training_steps_are_openrlhfs_own(openrlhf, their_loss):
    options = {
        "dual_clip": 3.0,
        "is_correction_level": "token",
        "is_correction_threshold": [0.5, 5.0],
    }
    theirs, ours = (train(openrlhf, kind(**options)) for kind in (their_loss, PolicyLoss))
    for step, (want, got) in enumerate(zip(theirs[0], ours[0], strict=True)):
        assert want["actor_grad_norm"] > 1e-3
        assert got == pytest.approx(want, rel=1e-4, abs=1e-5), step
    for name, value in theirs[1].items():
        torch.testing.assert_close(ours[1][name], value, rtol=1e-3, atol=1e-5, msg=name)


# --- advantages ---------------------------------------------------------------------------------

CONVENTIONS = {
    "group_norm": {"eps": 1e-9},
    "dr_grpo": {"scale": "none"},
    "rloo": {"baseline": "loo", "scale": "none"},
}


@pytest.mark.parametrize("estimator", CONVENTIONS)
def test_our_advantages_by_openrlhfs_conventions(openrlhf, estimator):
    from openrlhf.trainer.ppo_utils.experience import Experience
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    size, prompts = 4, 3
    rewards = torch.randn(prompts * size, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(prompts * size, TOKENS, dtype=torch.bool)
    maker = object.__new__(RemoteExperienceMaker)  # its constructor wants Ray's groups of GPUs
    maker.advantage_estimator = estimator
    maker.kl_ctl = SimpleNamespace(value=0.0)
    maker.strategy = SimpleNamespace(
        args=SimpleNamespace(
            algo=SimpleNamespace(advantage=SimpleNamespace(estimator=estimator, gamma=1.0)),
            rollout=SimpleNamespace(n_samples_per_prompt=size),
            reward=SimpleNamespace(
                clip_range=None, overlong_buffer_len=None, stop_properly_penalty_coef=None
            ),
        )
    )
    (done,) = maker.compute_advantages_and_returns(
        [
            Experience(
                index=list(range(len(rewards))),
                rewards=rewards,
                action_mask=mask,
                kl=torch.zeros_like(mask, dtype=torch.float32),
                info={},
            )
        ]
    )
    ours, _ = group_advantage(rewards, group_size=size, **CONVENTIONS[estimator])
    torch.testing.assert_close(ours[:, None].expand(-1, TOKENS), done.advantages)
