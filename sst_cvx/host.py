"""Two ways to guard.

Where the host may be asked, checks read tensors, raise at once and name what is wrong. Where it must not be (a compiler
traces, ``vmap`` maps, a CUDA graph is captured; an accelerator would have to be waited for), the same checks stay on
the device: an element that fails comes back as NaN, and the error follows.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

MODES = ("raise", "nan")


class _Chosen(threading.local):
    mode: str | None = None


_chosen = _Chosen()


class guard:  # a context manager, named as what follows "with"
    """``with sst.guard("nan"):`` chooses how failures are told, in this thread, for all that is called inside.

    "raise": checks read tensors on the host, and a ``SolveError`` or ``ValueError`` is raised at once. The default on
    the CPU. "nan": nothing is read on the host; an element that fails is NaN, value and gradient alike, and the error
    is raised at the next call, or by ``sst.synchronize()``. The default on accelerators. Under ``torch.compile``,
    ``torch.export``, ``torch.func.vmap`` and in a CUDA graph, it is always "nan", and no error follows. None: the
    default.

    Raises:
        ValueError: another mode.
    """

    def __init__(self, mode: str | None):
        self.mode = check_mode(mode)

    def __enter__(self) -> None:
        self._before, _chosen.mode = _chosen.mode, self.mode

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _chosen.mode = self._before


def check_mode(mode: Any) -> str | None:
    """A mode, or ValueError."""
    if mode is not None and mode not in MODES:
        raise ValueError(f"guard must be one of {MODES}, or None for the default, got {mode!r}.")
    return mode


def may_ask(x: torch.Tensor) -> bool:
    """Whether the host may read what was computed from x: to stop early, to choose, to raise."""
    if torch.compiler.is_compiling() or within_vmap():
        return False
    mode = _chosen.mode
    if mode is None:
        return x.is_cpu and not is_fake(x)
    return mode == "raise" and not is_captured(x)


def stops_early(x: torch.Tensor) -> bool:
    """Whether algorithms may read intermediate numbers: on the CPU, where that costs nothing. On a device each read is
    a wait, and a counted number of steps is faster even where errors are raised at once."""
    return x.is_cpu and may_ask(x)


def leaves_traces(x: torch.Tensor) -> bool:
    """Whether an error may follow a call in which the host is not asked: not if the call is only being recorded."""
    return not (torch.compiler.is_compiling() or within_vmap() or is_captured(x) or is_fake(x))


def within_vmap() -> bool:
    """Whether ``torch.func.vmap`` maps over some tensors."""
    if not torch._C._are_functorch_transforms_active():
        return False
    stack = torch._C._functorch.get_interpreter_stack()  # pyright: ignore[reportAttributeAccessIssue]
    vmap = torch._C._functorch.TransformType.Vmap  # pyright: ignore[reportAttributeAccessIssue]
    return any(level.key() == vmap for level in stack or ())


def is_captured(x: torch.Tensor) -> bool:
    """Whether a CUDA graph is being captured."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def is_fake(x: torch.Tensor) -> bool:
    """Whether there are no numbers behind it (``FakeTensorMode``)."""
    return type(x) is not torch.Tensor and isinstance(x, FakeTensor)
