"""A model family from a file outside the package, accepted by the start-up self-test."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers

from sectow_fast.families import FAMILIES, Family, register_family
from sectow_fast.learn.policy import Policy
from sectow_fast.learn.selftest import check_packing
from sectow_fast.plugins import load_plugins
from sectow_fast.types import Prompt, UserError


class WordCodec:
    """The part of a codec that a model of text alone needs."""

    pad_id, end_ids, image_id, banned_ids = 0, (1,), -1, (0,)

    def pixel_inputs(self, prompts):
        return {}

    def prefetch(self, prompts):
        pass


PROMPTS = [Prompt(case_id=f"p{size}", ids=tuple(range(5, 5 + size))) for size in (4, 17)]


@pytest.fixture
def mistral():
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        sliding_window=6,
        # With the usual small weights, wrong positions would hardly show.
        initializer_range=0.3,
    )
    return transformers.MistralForCausalLM(config)


def test_an_unknown_class_is_known_once_its_entry_is_loaded(mistral, outside):
    with pytest.raises(UserError, match=r"'mistral'\): found no known layout"):
        Policy(mistral, WordCodec())
    with FAMILIES.temporarily():
        load_plugins([str(outside("family"))])
        policy = Policy(mistral, WordCodec())
        assert policy.family == Family(name="mistral", max_positions=64)
        assert check_packing(policy, PROMPTS) < 1e-4


def test_an_entry_with_positions_of_its_own_is_used_and_checked(mistral):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Spread(Family):
        def positions(self, ids, grids):
            return 2 * torch.arange(len(ids))[None], 2 * len(ids)

    with FAMILIES.temporarily():
        register_family("mistral", lambda config: Spread(name="mistral", max_positions=64))
        with pytest.raises(UserError, match=r"self-test of packed rows.*MistralForCausalLM"):
            check_packing(Policy(mistral, WordCodec()), PROMPTS)


def test_a_taken_name_is_refused():
    with pytest.raises(UserError, match="model family 'llama': found the name taken"):
        register_family("llama", lambda config: Family(name="llama", max_positions=1))
