"""What many rooms' tests share: a small real sandbox, its untrained model, its codec."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads this when it is first imported. Only tests/kernels goes through the interpreter.
    os.environ["TRITON_INTERPRET"] = "1"

from sectow_fast.config import Config, SandboxConfig
from sectow_fast.data.sandbox.stage import SandboxStage


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def stage() -> SandboxStage:
    return SandboxStage(Config(sandbox=SandboxConfig(suite_size=40, picture_variants=3)))


@pytest.fixture
def model(stage):
    return stage.defender()


@pytest.fixture(autouse=True, scope="module")
def no_process_group_is_left():
    """A policy under FSDP makes a world of one, where there is none, and leaves it open."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
