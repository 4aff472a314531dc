"""Soft ranks: the Euclidean soft argmax over permutations of 1, ..., n."""

from __future__ import annotations

import numpy as np
import torch

import polytopes
import sst_cvx as sst
from benchmarks.peers.race import Contest, Row, available, by_torch, has, normal
from benchmarks.peers.thresholds import ours


def rows() -> list[Row]:
    return [Row(f"soft ranks, n = {n:,}", lambda n=n: _ranks(n)) for n in (10, 100, 1000)]


def _ranks(n: int) -> Contest:
    structure = polytopes.Permutahedron(torch.arange(1.0, n + 1, dtype=torch.float64))
    peers = []
    if has("torchsort"):
        import torchsort

        peers.append(by_torch("torchsort", torchsort.soft_rank))  # l2, strength 1
    missing = (*available("torchsort"), "fast-soft-sort is not on PyPI")
    return Contest(normal(n), ours(structure, sst.Euclidean()), peers, _minimax, checked=2, missing=missing)


def _minimax(u: torch.Tensor) -> torch.Tensor:
    """v_i = min_{j <= i} max_{k >= i} mean (z - w)_j..k over utilities and weights in order, x = u - v, in O(n^2)."""
    found = torch.empty_like(u)
    for row, x in zip(u.numpy(), found.numpy(), strict=True):
        order, n = np.argsort(-row), len(row)
        z = row[order]
        sums = np.concatenate([[0.0], np.cumsum(z - np.arange(n, 0, -1.0))])
        length = np.arange(1, n + 1)[None] - np.arange(n)[:, None]
        means = np.where(length > 0, (sums[None, 1:] - sums[:-1, None]) / np.where(length > 0, length, 1), -np.inf)
        largest = np.maximum.accumulate(means[:, ::-1], axis=1)[:, ::-1]  # over k >= i, by j
        v = np.where(np.tri(n, dtype=bool).T, largest, np.inf).min(0)
        x[order] = z - v
    return found
