"""Failures where the host is not asked: NaN now, and an error that names them later."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from sst_cvx.errors import Elements
from sst_cvx.host import leaves_traces


class Faults:
    """Which elements of one call failed, and why; nothing is read on the host.

    Args:
        elements: what the rows are called in the error that follows.
    """

    def __init__(self, elements: Elements):
        self._elements = elements
        self._parts: list[tuple[str, torch.Tensor]] = []

    def add(self, wrong: torch.Tensor, reason: str) -> None:
        """Rows that failed, bool ``(count,)``; the reason may contain ``{elements}``."""
        self._parts.append((reason, torch.where(wrong, torch.nan, 0.0)))

    def add_not_finite(self, x: torch.Tensor, reason: str) -> None:
        """Rows of x ``(count, ...)`` with an entry that is not finite: 0 times it is not 0."""
        zero = x.detach() * 0
        self._parts.append((reason, zero if x.dim() == 1 else zero.flatten(1).sum(1)))

    def take(self, other: Faults, copies: int = 1) -> None:
        """What others found in the same rows, of which every one was so many, one after the other."""
        parts = other._parts
        if copies > 1:
            parts = [(reason, part.reshape(-1, copies).sum(1)) for reason, part in parts]
        self._parts += parts

    def spoil(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Points x ``(count, *event)`` for utilities u: failed rows NaN, as are their derivatives by both; others as
        they are."""
        if not self._parts:
            return x
        total = sum(part.to(x.dtype) for _, part in self._parts)
        total = total.reshape(-1, *[1] * (x.dim() - 1))  # type: ignore[union-attr]
        return x * (1 + total) + u * total

    def leave(self, x: torch.Tensor, who: object) -> None:
        """Where errors may follow: keep what failed, for ``raise_pending``, and who answered."""
        if self._parts and not _pending.quiet and leaves_traces(x):
            failed = torch.stack([part.to(x.dtype).isnan() for _, part in self._parts])
            _pending.queue.append(_Pending.of(failed, [reason for reason, _ in self._parts], self._elements, who))


def not_finite(x: torch.Tensor, batch_dim: int) -> torch.Tensor:
    """Which elements of x ``(*batch, *event)`` have an entry that is not finite, ``(*batch, 1, ...)``."""
    event = tuple(range(batch_dim, x.dim()))
    zero = x.detach() * 0
    return (zero.sum(event, keepdim=True) if event else zero).isnan()


def tell(wrong: torch.Tensor, batch_shape: torch.Size, who: object, reason: str) -> None:
    """Of elements ``(*batch, ...)`` that are NaN already, let the error follow."""
    if not _pending.quiet and leaves_traces(wrong):
        raise_pending()
        failed = wrong.reshape(1, batch_shape.numel(), -1).any(-1)
        _pending.queue.append(_Pending.of(failed, [reason], Elements(batch_shape), who))


def spoiled(x: torch.Tensor, wrong: torch.Tensor, who: object, reason: str) -> torch.Tensor:
    """Values ``(*batch, ...)``, NaN with NaN for a derivative where ``wrong``, ``(*batch,)``; the error follows."""
    tell(wrong, wrong.shape, who, reason)
    return x * torch.where(wrong, torch.nan, 1.0).reshape(*wrong.shape, *[1] * (x.dim() - wrong.dim())).to(x.dtype)


@dataclass
class _Pending:
    """Flags of one call ``(reasons, count)``, on their way to the host."""

    flags: torch.Tensor
    event: Any
    reasons: list[str]
    elements: Elements
    who: object

    @staticmethod
    def of(failed: torch.Tensor, reasons: list[str], elements: Elements, who: object) -> _Pending:
        if not failed.is_cuda:
            return _Pending(failed, None, reasons, elements, who)
        flags = torch.empty(failed.shape, dtype=torch.bool, pin_memory=True)
        flags.copy_(failed, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return _Pending(flags, event, reasons, elements, who)

    def arrived(self) -> bool:
        return self.flags.is_cpu and (self.event is None or self.event.query())

    def check(self) -> None:
        """Raise SolveError if anything failed."""
        if self.event is not None:
            self.event.synchronize()
        flags = self.flags.numpy(force=True)  # no operation of torch: nothing that a dispatch mode would see
        for reason, rows in zip(self.reasons, flags, strict=True):
            if rows.any():
                raise self.elements.error(f"{self.who}: {reason} Their answers were NaN.", rows.nonzero()[0].tolist())


class _Queue(threading.local):
    def __init__(self) -> None:
        self.queue: deque[_Pending] = deque()
        self.quiet = False


_pending = _Queue()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """In this thread, no error follows what fails here: the caller asked for NaN."""
    before, _pending.quiet = _pending.quiet, True
    try:
        yield
    finally:
        _pending.quiet = before


def raise_pending() -> None:
    """Raise SolveError if an earlier call in this thread failed, as far as is known without waiting."""
    while _pending.queue and _pending.queue[0].arrived():
        _pending.queue.popleft().check()


def synchronize() -> None:
    """Wait for the device, and raise what went wrong in calls of this thread that did not ask the host.

    Raises:
        SolveError: an element failed, and its answer was NaN; it names the elements.
    """
    while _pending.queue:
        _pending.queue.popleft().check()
