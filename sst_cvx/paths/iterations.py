"""Counts of solvers' steps, by element, on request: what ``return_info`` reports."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch


class _Open(threading.local):
    def __init__(self) -> None:
        self.counts: list[list[torch.Tensor]] = []


_open = _Open()


def count(steps: torch.Tensor) -> None:
    """Of consecutive parts of a path's batch, ``(rows,)`` each; -1: not known."""
    if _open.counts:
        _open.counts[-1].append(steps)


@contextlib.contextmanager
def counting(steps: torch.Tensor, rows: torch.Tensor | None, copies: int = 1) -> Iterator[None]:
    """What is counted inside goes to these rows of ``steps`` (None: all), ``copies`` of which are one there; of a path
    within a path, it is added."""
    place = torch.arange(len(steps) * copies, device=steps.device) if rows is None else rows.to(steps.device)
    place = place // copies
    if not _open.counts:
        steps[place] = -1
    _open.counts.append([])
    try:
        yield
    finally:
        parts = _open.counts.pop()
        found = torch.cat([part.to(steps.device, steps.dtype) for part in parts]) if parts else steps[:0]
        if len(found) == len(place):  # not so of paths that count nothing, and of those that were interrupted
            steps[place] = steps[place].clamp(min=0)
            steps.index_add_(0, place, found)
