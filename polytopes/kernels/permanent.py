"""Permanents, and their like for rectangular and partial matchings, in the log domain: #P-hard, so of small size."""

from __future__ import annotations

import itertools
from functools import lru_cache

import torch

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
                before, column = (index.to(u.device) for index in _predecessors(few, size))
                joined = tables[size - 1][..., before] + u[..., seen - 1, :][..., column]
                ways += list(joined.unbind(-1))
            if ways:
                following[size] = torch.stack(ways, -1).logsumexp(-1)
        tables = following
    if every_column:
        return tables[few][..., 0].to(dtype)
    return torch.cat(list(tables.values()), -1).logsumexp(-1).to(dtype)


@lru_cache(maxsize=64)
@constants()
def _predecessors(n: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each set of ``size`` columns (in combinations order): the ranks of the sets with one left out, and which."""
    rank = {s: i for i, s in enumerate(itertools.combinations(range(n), size - 1))}
    sets = list(itertools.combinations(range(n), size))
    before = [[rank[s[:j] + s[j + 1 :]] for j in range(size)] for s in sets]
    return torch.tensor(before), torch.tensor(sets)
