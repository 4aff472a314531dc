"""Labelled segments that cover a sequence: x[i, d, c] = 1 where a segment of d + 1 items with label c starts at item i.

Sarawagi and Cohen, "Semi-Markov Conditional Random Fields for Information Extraction" (2004), with labels of segments
that do not depend on each other. A segmentation is a path from 0 to n; hull: its unit flow.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch

import sst_cvx as sst
from polytopes.lattice import Lattice
from sst_cvx.arguments import check_size


class SemiMarkov(Lattice, final=True):
    """Segmentations of n items into labelled segments; event shape ``(n, max_length, labels)``.

    Args:
        n: number of items, at least 1.
        labels: number of labels, at least 1.
        max_length: of a segment, from 1 to n.

    Raises:
        TypeError, ValueError: no such numbers.
    """

    def __init__(self, n: int, labels: int, max_length: int):
        self.n, self.labels = check_size("n", n, 1), check_size("labels", labels, 1)
        self.max_length = check_size("max_length", max_length, 1, n)
        shape = (self.n, self.max_length, self.labels)
        start, more, _ = (a.ravel() for a in np.indices(shape))
        end = start + more + 1
        # What would end beyond n leads to a vertex from which nothing goes on.
        super().__init__(shape, start, np.where(end <= n, end, n + 1), np.arange(start.size), 0, self.n)

    def length_mask(self, lengths: torch.Tensor) -> torch.Tensor:
        """Mask of sequences padded to n items: ``(*batch,)`` integers to ``(*batch, n, max_length, labels)`` bool.

        True for segments that end before the length.
        """
        start, more = (torch.arange(size, device=lengths.device) for size in (self.n, self.max_length))
        within = torch.nn.functional.pad(sst.length_mask(lengths, self.n), (0, self.max_length))
        within = within[..., start[:, None] + more]
        return within[..., None].expand(*within.shape, self.labels)

    def fillers(self, allowed: torch.Tensor) -> torch.Tensor:
        """Segments of one item, of the first label, where no allowed segment covers the item: it is not there."""
        some = allowed.any(-1)
        covered = torch.stack(
            [torch.nn.functional.pad(some[..., d:].any(-1), (d, 0))[..., : self.n] for d in range(self.max_length)]
        ).any(0)
        return torch.nn.functional.pad(~covered[..., None, None], (0, self.labels - 1, 0, self.max_length - 1))

    def _key(self) -> Hashable:
        return self.n, self.labels, self.max_length

    def __repr__(self) -> str:
        return f"SemiMarkov(n={self.n}, labels={self.labels}, max_length={self.max_length})"
