"""A structure of our own: k of n words in at most two contiguous segments, with argmax and marginals in O(n k).

With l words in the first segment and k - l in the second, the first starts at i and the second at j > i + l. Scores
of segments are differences of prefix sums; best and log-sum over the pairs i, j need only running maxima and running
log-sums over i. Hull: a mixture over l of weights a_i of first and b_j of second starts, of equal mass, such that at
every position at least as much first mass has ended as second mass has begun; then the two can be coupled (Strassen).
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch

import sst_cvx as sst
from polytopes.kernels.box import box_violation
from sst_cvx.arguments import check_finite, check_size, check_utilities, check_vertex_count


class TwoSegments(sst.Structure, final=True):
    """k of n words that make at most two contiguous segments; event shape ``(n,)``.

    Args:
        n: number of words, at least 1.
        k: number of words chosen, 1 <= k <= n.
    """

    known_binary = True
    known_bounded = True

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

    def _scores(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sums over single segments ``(*batch, n - k + 1)``, and over first and second ones ``(*batch, n - k, k - 1)``.

        With l words in the first, column l - 1: the first starts at r, the second at r + l + 1, in row r.
        """
        prefix = torch.nn.functional.pad(u.double().cumsum(-1), (1, 0))
        single = prefix[..., self.k :] - prefix[..., : self.n - self.k + 1]
        if self.n == self.k:
            none = prefix.new_zeros(*u.shape[:-1], 0, self.k - 1)
            return single, none, none
        windows = prefix.unfold(-1, self.k + 2, 1)
        first = windows[..., 1 : self.k] - windows[..., :1]
        return single, first, windows[..., self.k + 1 :] - windows[..., 2 : self.k + 1]

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """The best subset, as the gradient of the best score; over the whole batch, on the device of ``u``."""
        check_utilities(u, self.event_shape)
        check_finite(u, "utilities")
        with torch.enable_grad():
            v = u.detach().double().requires_grad_()
            single, first, second = self._scores(v)
            pairs = first.cummax(-2).values + second if self.n > self.k else second
            (x,) = torch.autograd.grad(torch.cat([single, pairs.flatten(-2)], -1).max(-1).values.sum(), v)
        return x.round().to(u.dtype)

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over subsets of exp <u, x>."""
        single, first, second = self._scores(u)
        pairs = first.logcumsumexp(-2) + second if self.n > self.k else second
        return torch.cat([single, pairs.flatten(-2)], -1).logsumexp(-1).to(u.dtype)

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        """What can be seen without starts: entries in [0, 1], k words, at most two rises and falls in all."""
        changes = torch.nn.functional.pad(x, (1, 1)).diff(dim=-1).abs().sum(-1) / 2 - 2
        return torch.maximum(box_violation(x, self.k, self.k), changes / self.n)

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


@sst.fast_path(TwoSegments, sst.ExponentialFamilyEntropy)
def marginals(structure: TwoSegments, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor) -> torch.Tensor:
    """Probabilities of the words, by running log-sums from both ends; written out because torch's second derivative
    of ``logcumsumexp`` is NaN."""
    n, k = structure.n, structure.k
    single, first, second = structure._scores(u)
    if n > k:
        before = first.logcumsumexp(-2)
        after = second.flip(-2).logcumsumexp(-2).flip(-2)
        total = torch.cat([single, (before + second).flatten(-2)], -1).logsumexp(-1)[..., None]
        first, second = (first + after - total[..., None]).exp(), (before + second - total[..., None]).exp()
    else:
        total = single.logsumexp(-1)[..., None]
    row, length = torch.arange(n - k, device=u.device)[:, None], torch.arange(1, k, device=u.device)
    place = torch.arange(n - k + 1, device=u.device)
    starts = torch.cat([place, (row + 0 * length).flatten(), (row + length + 1).flatten()])
    ends = torch.cat([place + k, (row + length).flatten(), (row + 0 * length + k + 1).flatten()])
    p = torch.cat([(single - total).exp(), first.flatten(-2), second.flatten(-2)], -1)
    change = p.new_zeros(*u.shape[:-1], n + 1).index_add(-1, starts, p).index_add(-1, ends, -p)
    return change.cumsum(-1)[..., :n].clamp(0, 1).to(u.dtype)


def _cover(n: int, length: int) -> sp.csr_array:
    """``(n, n - length + 1)``: which words the segment from each start covers."""
    starts = np.repeat(np.arange(n - length + 1), length)
    words = starts + np.tile(np.arange(length), n - length + 1)
    return sp.csr_array((np.ones(len(words)), (words, starts)), shape=(n, n - length + 1))


def _difference(size: int) -> sp.csr_array:
    return sp.csr_array(np.eye(size) - np.eye(size, k=-1))
