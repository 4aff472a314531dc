"""One contiguous run of items: X = { 1 on i, ..., j, 0 elsewhere : min_length <= j - i + 1 <= max_length }.

Hull: mixtures of all runs, of which there are at most n * (max_length - min_length + 1). Scores of all runs are
differences of prefix sums; their maximum is the argmax, their log-sum-exp the log-partition.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import torch

import sst_cvx as sst
from sst_cvx.validation import check_finite, check_size, check_utilities


class Segment(sst.Structure, final=True):
    """A run of consecutive items; event shape ``(n,)``.

    Args:
        n: number of items, at least 1.
        min_length, max_length: bounds of the run's length, 1 <= min_length <= max_length <= n; by default any length.
    """

    def __init__(self, n: int, min_length: int = 1, max_length: int | None = None):
        self.n = check_size("n", n, 1)
        self.min_length = check_size("min_length", min_length, 1, n)
        self.max_length = n if max_length is None else check_size("max_length", max_length, min_length, n)
        lengths = range(self.min_length, self.max_length + 1)
        runs = [(start, start + length) for length in lengths for start in range(n - length + 1)]
        self._starts, self._ends = torch.tensor(runs).T.contiguous()
        x, mixture = cp.Variable(n), cp.Variable(len(runs))
        members = np.array([(np.arange(n) >= i) & (np.arange(n) < j) for i, j in runs], dtype=float)
        super().__init__(x, [mixture >= 0, cp.sum(mixture) == 1, x == members.T @ mixture])

    def _scores(self, u: torch.Tensor) -> torch.Tensor:
        """Sums over all runs, ``(*batch, runs)``, float64: differences of prefix sums lose digits."""
        prefix = torch.nn.functional.pad(u.double().cumsum(-1), (1, 0))
        return prefix[..., self._ends.to(u.device)] - prefix[..., self._starts.to(u.device)]

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """The run of largest sum; on the device of ``u``."""
        check_utilities(u, self.event_shape)
        check_finite(u, "utilities")
        best = self._scores(u.detach()).argmax(-1, keepdim=True)
        place = torch.arange(self.n, device=u.device)
        starts, ends = self._starts.to(u.device)[best], self._ends.to(u.device)[best]
        return ((place >= starts) & (place < ends)).to(u.dtype)

    def vertices(self) -> torch.Tensor:
        place = torch.arange(self.n)
        return ((place >= self._starts[:, None]) & (place < self._ends[:, None])).double()

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over runs of exp of their sums."""
        return self._scores(u).logsumexp(-1).to(u.dtype)

    def __repr__(self) -> str:
        return f"Segment(n={self.n}, min_length={self.min_length}, max_length={self.max_length})"
