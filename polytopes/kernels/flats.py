"""The hull of a matroid's bases from the ranks of all sets: its inseparable flats (Edmonds 1971)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def all_sets(n: int) -> np.ndarray:
    """``(2^n, n)``, bool; row number and set are the same bits."""
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)


def rank_constraints(x: Any, ranks: np.ndarray) -> list[Any]:
    """x >= 0, x(C) = r(C) for the components C, x(F) <= r(F) for the other inseparable flats F."""
    n = int(math.log2(len(ranks)))
    sets = all_sets(n)
    bits = 1 << np.arange(n)
    everything = len(ranks) - 1
    components = _parts(ranks, everything)
    loops = int(bits[ranks[bits] == 0].sum())
    number = np.arange(len(ranks))
    joined = number[:, None] | bits  # one element more; loops are parts of no inseparable set but themselves
    flat = ((ranks[joined] > ranks[:, None]) | sets | (loops & bits > 0)).all(1) & (number & loops == 0) & (number > 0)
    rows = [f for f in np.flatnonzero(flat) if f not in components and _split(ranks, int(f)) is None]
    equal = sets[components].astype(float)
    constraints = [x >= 0, equal @ x == ranks[components]]
    return [*constraints, sets[rows].astype(float) @ x <= ranks[rows]] if rows else constraints


def _split(ranks: np.ndarray, s: int) -> int | None:
    """A nonempty proper subset A of s with r(A) + r(s - A) = r(s), or None: s is inseparable."""
    part = np.arange(len(ranks)) & s
    separator = (part != 0) & (part != s) & (ranks[part] + ranks[s - part] == ranks[s])
    return int(part[separator][0]) if separator.any() else None


def _parts(ranks: np.ndarray, s: int) -> list[int]:
    a = _split(ranks, s)
    return [s] if a is None else [*_parts(ranks, a), *_parts(ranks, s - a)]
