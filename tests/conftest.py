"""Shared fixtures: seeds, threads, batch shapes, dtypes."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)  # small tensors: a second thread only costs


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    torch.distributions.Distribution.set_default_validate_args(True)  # compilers switch it off for the whole process


@pytest.fixture(params=[(), (1,), (3,), (2, 3), (0,), (2, 0)], ids=str)
def batch_shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param
