"""Shared fixtures: seeds, threads, batch shapes, dtypes."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
import torch

from tests.quick import ONE_IN

HERE = Path(__file__).parent

torch.set_num_threads(1)  # small tensors: a second thread only costs


@pytest.hookimpl(tryfirst=True)  # before -m leaves tests out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what ``quick.py`` leaves out: by the names of cases, so that no kind of case is always left out."""
    seen = set()
    for item in items:
        file = item.path.relative_to(HERE).as_posix() if item.path.is_relative_to(HERE) else ""
        share = ONE_IN.get(file, {}).get(getattr(item, "originalname", ""))
        if share is None:
            continue
        test = item.nodeid.partition("[")[0]
        chosen = share and (test not in seen or zlib.crc32(item.nodeid.encode()) % share == 0)
        seen.add(test)
        if not chosen:
            item.add_marker(pytest.mark.slow)


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
