"""Monotone alignments of two sequences: ways through a grid of n rows (a) and m columns (b), cell by cell.

Needleman and Wunsch (1970), Smith and Waterman (1981), Sakoe and Chiba (1978); soft-DTW is Cuturi and Blondel (2017).
A way enters each of its cells by one of three operations, numbered as in torch-struct's ``AlignmentCRF``:

    x[i, j, 0] = 1   from (i, j - 1): item j of b alone, a gap in a
    x[i, j, 1] = 1   from (i - 1, j - 1): items i and j, a match
    x[i, j, 2] = 1   from (i - 1, j): item i of a alone, a gap in b

Hull: the unit flow on these steps.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal

import numpy as np
import torch

import sst_cvx as sst
from polytopes.lattice import FREE, Lattice
from sst_cvx.arguments import check_size

_STEPS = ((0, 1), (1, 1), (1, 0))  # rows and columns back, by operation
_MATCH = 1


class Alignment(Lattice, final=True):
    """Monotone alignments; event shape ``(n, m, 3)``, or ``(n, m)`` for ``"warping"``.

    Args:
        n, m: rows and columns, at least 1.
        kind: which ways.

            - ``"global"``: from cell (0, 0), which is entered by a match, to cell (n - 1, m - 1). Sequences that may
              begin with gaps take a row and a column more, for "nothing yet": ``Alignment(len(a) + 1, len(b) + 1)``,
              scores of items i and j in cell (i + 1, j + 1), and 0 in cell (0, 0). Ends need nothing.
            - ``"local"``: from any match to any later one, or nothing at all.
            - ``"warping"``: as global, and x[i, j] = 1 for the cells of the way, however they are entered. Of utilities
              -cost / t, -t times the log-partition is soft-DTW, and marginals are its alignment matrix.

    Raises:
        TypeError, ValueError: no such numbers, or no such kind.
    """

    def __init__(self, n: int, m: int, kind: Literal["global", "local", "warping"] = "global"):
        self.n, self.m = check_size("n", n, 1), check_size("m", m, 1)
        if kind not in ("global", "local", "warping"):
            raise ValueError(f"kind must be 'global', 'local' or 'warping', got {kind!r}.")
        self.kind = kind
        i, j, operation = (a.ravel() for a in np.indices((n, m, 3)))
        before_i, before_j = np.array([(i, j)]).reshape(2, -1) - np.array(_STEPS).T[:, operation]
        inside = (before_i >= 0) & (before_j >= 0)
        cells, source, nowhere = n * m, n * m, n * m + 1
        heads, tails = i * m + j, np.where(inside, before_i * m + before_j, nowhere)
        items, end = np.arange(len(heads)), cells - 1
        if kind == "local":
            end = cells + 2
            first, last = items[_MATCH::3], inside & (operation == _MATCH)
            cell, once = np.arange(cells), np.full(cells, source)
            tails = np.concatenate([tails, once, tails[last], once, [source]])
            heads = np.concatenate([heads, cell, np.full(last.sum() + cells + 1, end)])
            items = np.concatenate([items, first, items[last], first, [FREE]])
        else:
            tails[_MATCH] = source
        shape = (n, m) if kind == "warping" else (n, m, 3)
        super().__init__(shape, tails, heads, items // 3 if kind == "warping" else items, source, end)

    def length_mask(self, lengths_a: torch.Tensor, lengths_b: torch.Tensor) -> torch.Tensor:
        """Mask of grids padded to n rows and m columns: two times ``(*batch,)`` integers to ``(*batch, *event_shape)``.

        For ``"warping"``, rows and columns are both padded or both not: make n and m one more than the longest.

        Raises:
            TypeError, ValueError: no such lengths; for ``"warping"``, one of the two sequences padded alone.
        """
        rows, columns = sst.length_mask(lengths_a, self.n), sst.length_mask(lengths_b, self.m)
        if self.kind == "warping" and bool(((lengths_a < self.n) != (lengths_b < self.m)).any()):
            raise ValueError(
                "lengths: a warping is padded in both sequences or in neither: make n and m one more than the longest."
            )
        cells = rows[..., :, None] & columns[..., None, :]
        return cells if self.kind == "warping" else cells[..., None].expand(*cells.shape, 3)

    def fillers(self, allowed: torch.Tensor) -> torch.Tensor | None:
        """The only way on to the end, past the last rows and columns that a mask cuts off: they are not there."""
        if self.kind == "local":
            return None
        cells = allowed if self.kind == "warping" else allowed.any(-1)
        beyond_a, beyond_b = _beyond(cells.any(-1))[..., :, None], _beyond(cells.any(-2))[..., None, :]
        rows, columns = (torch.arange(size, device=allowed.device) for size in (self.n, self.m))
        if self.kind == "global":  # down the last column, and along the last row
            down = (beyond_a >= 0) & (beyond_b == -1)
            along = (beyond_b >= 0) & (rows == self.n - 1)[:, None]
            return torch.stack([along, torch.zeros_like(along), down.expand(along.shape)], -1)
        # Diagonally, and on along the border: other ways could leave out a cell.
        along = (beyond_b > beyond_a) & (rows == self.n - 1)[:, None]
        down = (beyond_a > beyond_b) & (columns == self.m - 1)
        on = (beyond_a == beyond_b) | along | down
        return (beyond_a >= 0) & (beyond_b >= 0) & on

    def _key(self) -> Hashable:
        return self.n, self.m, self.kind

    def __repr__(self) -> str:
        return f"Alignment(n={self.n}, m={self.m}, kind={self.kind!r})"


def _beyond(present: torch.Tensor) -> torch.Tensor:
    """By how much each of the places ``(*batch, size)`` is behind the last one present, less 1."""
    places = torch.arange(present.shape[-1], device=present.device)
    length = torch.where(present, places + 1, 0).amax(-1, keepdim=True)
    return places - length
