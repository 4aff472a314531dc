"""Compiled kernels, optional: where Numba is installed (extra ``native``), small work on the CPU goes to them.

Numba, and no C++ extension: it needs no compiler and no wheels of our own, its calls cost about as much (15 us for a
kernel with its arrays), and what it compiled is kept on disk. Each kernel stands beside tensor code that gives the same
answer wherever Numba is missing, the tensors are on a device, or the host may not be asked.

``SST_CVX_NATIVE=0`` in the environment switches them off.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from sst_cvx.host import stops_early


class _Switch:
    on = os.environ.get("SST_CVX_NATIVE", "1") != "0" and importlib.util.find_spec("numba") is not None


def serves(x: torch.Tensor) -> bool:
    """Whether compiled kernels answer for this tensor: one of plain numbers on the CPU, which nothing records.

    Cotangents that the older ``vmap`` maps over, and what ``torch.func`` transforms, are not plain.
    """
    return (
        _Switch.on
        and (type(x) is torch.Tensor or type(x) is torch.nn.Parameter)
        and stops_early(x)
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._functorch.is_legacy_batchedtensor(x)  # pyright: ignore[reportAttributeAccessIssue]
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._get_tracing_state() is None
    )


def array(x: torch.Tensor) -> np.ndarray:
    """The numbers of a tensor on the CPU, contiguous; shared with it where it is."""
    return x.contiguous().numpy(force=True)


def compiled(function: Callable[..., Any]) -> Any:
    """Decorates the loops of modules that are imported where ``serves`` says so: compiled at their first call, kept on
    disk; other threads run meanwhile; x / 0 is infinite, as in tensors."""
    import numba

    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)


@contextlib.contextmanager
def switched(on: bool) -> Iterator[None]:
    """In all threads, for tests and benchmarks: compiled kernels on (where Numba is installed) or off."""
    before = _Switch.on
    _Switch.on = on and importlib.util.find_spec("numba") is not None
    try:
        yield
    finally:
        _Switch.on = before
