"""Answers although some elements fail: these are named to the batch's faults, and the rest is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from sst_cvx.errors import Elements, SolveError
from sst_cvx.faults import Faults
from sst_cvx.host import guard
from sst_cvx.paths.absent import without_absent
from sst_cvx.paths.base import Batch
from sst_cvx.structure.base import Structure
from sst_cvx.structure.declaration import admitted

_Answer = Callable[[Batch], torch.Tensor]


def patiently(answer: _Answer, batch: Batch, structure: Structure) -> torch.Tensor:
    """Points of a flat batch with faults; failed elements are NaN, as is their gradient by u, t and parameters.

    Args:
        answer: of a batch without faults; it raises SolveError, naming elements.
        batch: every element of the caller's.
        structure: whose parameters these are.
    """
    batch = without_absent(structure, batch)
    faults = batch.faults
    assert faults is not None
    own = Faults(batch.elements)
    wrong = _unsound(batch, structure, own)
    elements = batch.elements if batch.elements.told else replace(batch.elements, told=_tell)
    left = torch.nonzero(~wrong).flatten()
    failed: list[tuple[torch.Tensor, str]] = []
    with guard("raise"):
        parts = answered(answer, replace(batch, faults=None, elements=elements), left, failed)
    for rows, reason in failed:
        own.add(torch.zeros_like(wrong).index_fill(0, rows, True), reason)
    whole = len(parts) == 1 and len(parts[0][1]) == len(batch)
    x = parts[0][1] if whole else assembled(parts, batch.u)
    faults.take(own)
    return own.spoil(x, everything(batch))


def assembled(parts: list[tuple[torch.Tensor, torch.Tensor]], like: torch.Tensor) -> torch.Tensor:
    """Rows and their answers as one batch, 0 elsewhere."""
    x = torch.zeros_like(like)
    for rows, part in parts:
        x = x.index_copy(0, rows, part)
    return x


def _unsound(batch: Batch, structure: Structure, faults: Faults) -> torch.Tensor:
    """Which elements have arguments that no path takes."""
    u = batch.without_mask().u.detach().flatten(1)
    t = batch.temperatures.detach()
    finite = torch.isfinite(u).all(1) & ~(torch.isfinite(t) & (t > 0) & ~torch.isfinite(u / t[:, None]).all(1))
    faults.add(~finite, "utilities / temperature must be finite, but are not for {elements}.")
    positive = torch.isfinite(t) & (t > 0)
    faults.add(~positive, "temperatures must be positive, but are not for {elements}.")
    wrong = ~(finite & positive)
    for p in structure.parameters if batch.parameters else ():
        right = admitted(p, batch.parameters[p.name()]).to(wrong.device)
        faults.add(~right, f"parameter {p.name()} is not finite, or violates its CVXPY attributes, for {{elements}}.")
        wrong = wrong | ~right
    return wrong


def answered(
    answer: _Answer,
    batch: Batch,
    rows: torch.Tensor,
    failed: list[tuple[torch.Tensor, str]],
    errors: tuple[type[Exception], ...] = (SolveError, ValueError),
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Answers of these rows but for those that fail by one of these errors, which are put into a list with its
    message."""
    while len(rows):
        try:
            return [(rows, answer(batch if len(rows) == len(batch) else batch.take(rows)))]
        except errors as error:
            message = error.message if isinstance(error, SolveError) else str(error)
            wrong = _rows(error, batch.elements, rows) if isinstance(error, SolveError) else None
            if wrong is None and len(rows) > 1:  # one of them, but which?
                halves = rows.tensor_split(2)
                return [part for half in halves for part in answered(answer, batch, half, failed, errors)]
            wrong = torch.ones_like(rows, dtype=torch.bool) if wrong is None else wrong
        failed.append((rows[wrong], message))
        rows = rows[~wrong]
    return []


def _rows(error: SolveError, elements: Elements, rows: torch.Tensor) -> torch.Tensor | None:
    """Which of these rows the error names; None if it does not say."""
    shape = tuple(elements.batch_shape)
    numbers = [int(np.ravel_multi_index(e, shape)) if shape else 0 for e in error.elements]
    wrong = torch.isin(rows // elements.copies, torch.tensor(numbers, dtype=rows.dtype, device=rows.device))
    return wrong if bool(wrong.any()) else None


def everything(batch: Batch) -> torch.Tensor:
    """Utilities that depend on all that is differentiable, for the gradients of what failed."""
    t = batch.t
    u = batch.without_mask().u
    if isinstance(t, torch.Tensor) and t.requires_grad:
        u = u * (t.detach() / t).reshape(-1, *[1] * (u.dim() - 1))
    for p in batch.parameters.values():
        if p.requires_grad:
            u = u + p.to(u.device, u.dtype).reshape(len(p), -1).sum(1).reshape(-1, *[1] * (u.dim() - 1))
    return u


def _tell(elements: Elements, wrong: torch.Tensor, message: str) -> None:
    """The error of a backward pass, at the next call."""
    faults = Faults(elements)
    faults.add(wrong, message)
    faults.leave(wrong.double(), "a backward pass")
