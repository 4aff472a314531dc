"""A structure of our own: k of n words in at most two contiguous segments, with argmax and marginals in O(n k).

With l words in the first segment and k - l in the second, the first starts at i and the second at j > i + l. Scores
of segments are differences of prefix sums; best and log-sum over the pairs i, j need only running maxima and running
log-sums over i. Hull: a mixture over l of weights a_i of first and b_j of second starts, of equal mass, such that at
every position at least as much first mass has ended as second mass has begun; then the two can be coupled (Strassen).
"""

from __future__ import annotations

from collections.abc import Callable

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch

import sst_cvx as sst
from sst_cvx.validation import check_finite, check_size, check_utilities, check_vertex_count

Operation = Callable[..., torch.Tensor]


class TwoSegments(sst.Structure, final=True):
    """k of n words that make at most two contiguous segments; event shape ``(n,)``.

    Args:
        n: number of words, at least 1.
        k: number of words chosen, 1 <= k <= n.
    """

    known_bounded = nonnegative = True  # pyright: ignore  # known: finding it takes linear programs

    def __init__(self, n: int, k: int):
        self.n, self.k = check_size("n", n, 1), check_size("k", k, 1, n)
        x, single = cp.Variable(n), cp.Variable(n - k + 1)
        constraints, mass, covered = [single >= 0], cp.sum(single), _cover(n, k) @ single
        for length in self._first_lengths():
            begun_a, begun_b = cp.Variable(n - length + 1), cp.Variable(n - k + length + 1)  # cumulative masses
            a, b = _difference(n - length + 1) @ begun_a, _difference(n - k + length + 1) @ begun_b
            pairs = n - k  # first segments that leave room for a second: i = 0, ..., n - k - 1
            constraints += [a >= 0, b >= 0, a[pairs:] == 0, begun_b[: length + 1] == 0]
            constraints += [begun_b[length + 1 :] <= begun_a[:pairs], begun_b[-1] == begun_a[-1]]
            mass += begun_a[-1]
            covered += _cover(n, length) @ a + _cover(n, k - length) @ b
        super().__init__(x, [*constraints, mass == 1, x == covered])

    def _first_lengths(self) -> range:
        return range(1, self.k if self.n > self.k else 1)

    def _best_or_sum(self, u: torch.Tensor, running: Operation, total: Operation) -> torch.Tensor:
        """Maximum or log-sum over X of <u, x>, ``(*batch,)``, by the semiring's running and total sums."""
        prefix = torch.nn.functional.pad(u.double().cumsum(-1), (1, 0))

        def segments(length: int) -> torch.Tensor:
            return prefix[..., length:] - prefix[..., : prefix.shape[-1] - length]

        scores = [segments(self.k)]
        for length in self._first_lengths():
            first = segments(length)[..., : self.n - self.k]
            scores.append(running(first) + segments(self.k - length)[..., length + 1 :])
        return total(torch.cat(scores, -1))

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """The best subset, as the gradient of the best score; over the whole batch, on the device of ``u``."""
        check_utilities(u, self.event_shape)
        check_finite(u, "utilities")
        with torch.enable_grad():
            v = u.detach().double().requires_grad_()
            best = self._best_or_sum(v, lambda s: s.cummax(-1).values, lambda s: s.max(-1).values)
            (x,) = torch.autograd.grad(best.sum(), v)
        return x.round().to(u.dtype)

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over subsets of exp <u, x>."""
        value = self._best_or_sum(u, lambda s: s.logcumsumexp(-1), lambda s: s.logsumexp(-1))
        return value.to(u.dtype)

    def vertices(self) -> torch.Tensor:
        pairs = (self.n - self.k) * (self.n - self.k + 1) // 2
        check_vertex_count(self, self.n - self.k + 1 + pairs * (self.k - 1))
        rows = [[0] * i + [1] * self.k + [0] * (self.n - self.k - i) for i in range(self.n - self.k + 1)]
        for length in self._first_lengths():
            for i in range(self.n - self.k):
                for gap in range(1, self.n - self.k - i + 1):
                    head = [0] * i + [1] * length + [0] * gap + [1] * (self.k - length)
                    rows.append(head + [0] * (self.n - len(head)))
        return torch.tensor(rows, dtype=torch.float64)

    def __repr__(self) -> str:
        return f"TwoSegments(n={self.n}, k={self.k})"


def _cover(n: int, length: int) -> sp.csr_array:
    """``(n, n - length + 1)``: which words the segment from each start covers."""
    starts = np.arange(n - length + 1)
    return sp.diags_array(np.ones((length, len(starts))), offsets=-np.arange(length), shape=(n, len(starts))).tocsr()


def _difference(size: int) -> sp.csr_array:
    return sp.diags_array([np.ones(size), -np.ones(size - 1)], offsets=[0, -1], shape=(size, size)).tocsr()
