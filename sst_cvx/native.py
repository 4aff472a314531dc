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

_INSTALLED = importlib.util.find_spec("numba") is not None


class _Switch:
    on = _INSTALLED and os.environ.get("SST_CVX_NATIVE", "1") != "0"
    patient = False


def is_on() -> bool:
    """Whether there are any."""
    return _Switch.on


def serves(x: torch.Tensor) -> bool:
    """Whether compiled kernels answer for this tensor."""
    return _Switch.on and is_plain(x)


def is_plain(x: torch.Tensor) -> bool:
    """Whether a tensor is one of plain numbers on the CPU, which nothing records: loops outside torch may read it.

    Cotangents that the older ``vmap`` maps over, and what ``torch.func`` transforms, are not plain.
    """
    return (
        (type(x) is torch.Tensor or type(x) is torch.nn.Parameter)
        and stops_early(x)
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._functorch.is_legacy_batchedtensor(x)  # pyright: ignore[reportAttributeAccessIssue]
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._get_tracing_state() is None
    )


def array(x: torch.Tensor) -> np.ndarray:
    """The numbers of a tensor on the CPU, contiguous; shared with it where it is."""
    return x.contiguous().numpy(force=True)


def compiled(function: Callable[..., Any], **more: Any) -> Any:
    """Decorates the loops of modules that are imported where ``serves`` says so: compiled at their first call, kept on
    disk; other threads run meanwhile; x / 0 is infinite, as in tensors. ``more``: options of ``numba.njit``."""
    import numba

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", **more}
    try:
        found: Any = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep it
        return numba.njit(**options)(function)
    with contextlib.suppress(AttributeError):  # what is kept is out of date when a module beside it has changed
        kept = found._cache._cache_file
        kept._source_stamp = (kept._source_stamp, _stamp(function.__code__.co_filename))
    return found


def is_kept(loops: Any) -> bool:
    """Whether some ``compiled`` loops were compiled before, here or on this disk."""
    try:
        return bool(loops.signatures) or bool(loops._cache._cache_file._load_index())
    except (AttributeError, OSError):
        return False


def _stamp(file: str) -> tuple[tuple[str, int, int], ...]:
    """Of all modules in a file's folder."""
    found = (entry for entry in os.scandir(os.path.dirname(file)) if entry.name.endswith(".py"))
    return tuple(sorted((entry.name, entry.stat().st_mtime_ns, entry.stat().st_size) for entry in found))


def may_compile() -> bool:
    """Whether loops that take most of a minute to compile may be: not in the middle of somebody's call, but by
    ``python -m sst_cvx.precompile``."""
    return _Switch.patient


@contextlib.contextmanager
def patiently() -> Iterator[None]:
    """Here they may."""
    before, _Switch.patient = _Switch.patient, True
    try:
        yield
    finally:
        _Switch.patient = before


@contextlib.contextmanager
def switched(on: bool) -> Iterator[None]:
    """In all threads, for tests and benchmarks: compiled kernels on (where Numba is installed) or off."""
    before = _Switch.on
    _Switch.on = on and _INSTALLED
    try:
        yield
    finally:
        _Switch.on = before
