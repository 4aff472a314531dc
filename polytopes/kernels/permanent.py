"""Permanents, and their like for rectangular and partial matchings, in the log domain: #P-hard, so of small size."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from sst_cvx.once import constants

LARGEST_PERMANENT = 12  # of the smaller side: n 2^(n-1) terms a batch element


def log_matchings(u: torch.Tensor, every_row: bool, every_column: bool) -> torch.Tensor:
    """log of the sum over matchings of exp of their sums: ``(*batch, n, m)`` to ``(*batch,)``; a permanent if perfect.

    Goes through the larger side; entry S of a table is the log-sum over ways to match what was seen with the set S of
    the smaller side. Only sums of positive terms occur, so it is stable at any scale, unlike Ryser's formula.
    """
    dtype, u = u.dtype, u.double()  # sums of 1,000 would leave float32 four digits of a difference
    if u.shape[-2] < u.shape[-1]:
        u, every_row, every_column = u.mT, every_column, every_row
    many, few = u.shape[-2:]
    tables = {0: torch.zeros_like(u[..., :1, 0])}
    for seen in range(1, many + 1):
        least = max(0, few - (many - seen)) if every_column else 0
        following = {}
        for size in range(least, min(seen, few) + 1):
            ways = [tables[size]] if size in tables and not every_row else []
            if size and size - 1 in tables:
                before, column = _predecessors(few, size, u.device)
                joined = _at(tables[size - 1], before) + _at(u[..., seen - 1, :], column)
                ways += list(joined.unbind(-1))
            if ways:
                following[size] = torch.stack(ways, -1).logsumexp(-1)
        tables = following
    if every_column:
        return tables[few][..., 0].to(dtype)
    return torch.cat(list(tables.values()), -1).logsumexp(-1).to(dtype)


def _at(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``x[..., index]``; the derivative of this one takes no host read, and compiles."""
    return x.index_select(-1, index.reshape(-1)).unflatten(-1, index.shape)


def _predecessors(n: int, size: int, device: torch.device) -> torch.Tensor:
    """For each set of ``size`` columns (in combinations order): the ranks of the sets with one left out, and which;
    ``(2, sets, size)``."""
    if device.type == "cpu":
        return _TABLES[n, size]
    kept = _COPIES.get((n, size, device))
    if kept is not None:
        return kept
    if torch.compiler.is_compiling():
        return _TABLES[n, size].to(device)
    with _disable_current_modes(), constants():
        return _COPIES.setdefault((n, size, device), _TABLES[n, size].to(device))


def _made(n: int, size: int) -> torch.Tensor:
    sets = np.array(list(itertools.combinations(range(n), size)))
    smaller = np.array(list(itertools.combinations(range(n), size - 1)), dtype=int)
    rank = np.zeros(1 << n, dtype=int)
    rank[(1 << smaller).sum(1)] = np.arange(len(smaller))
    bits = 1 << sets
    return torch.from_numpy(np.stack([rank[bits.sum(1)[:, None] - bits], sets]))


# Made at import, and so never within a trace: 1.5 MB, in some milliseconds. And on other devices, once asked for.
with constants():
    _TABLES = {(n, size): _made(n, size) for n in range(1, LARGEST_PERMANENT + 1) for size in range(1, n + 1)}
_COPIES: dict[tuple[int, int, torch.device], torch.Tensor] = {}
