"""One contiguous run of items: X = { 1 on i, ..., j, 0 elsewhere : min_length <= j - i + 1 <= max_length }.

With A_i = 1 where the run starts at i or before, and B_i = 1 where it ends at i + min_length or before (an end is the
item after the last), x_i = A_i - B_(i - min_length). Hull: A and B do not decrease, end at 1, and, with the number w of
lengths, A_(i - w + 1) <= B_i <= A_i: a system of differences, whose matrix is totally unimodular, so integral. Scores
of runs are differences of prefix sums; their maximum and their log-sum-exp take O(n log n), by those over windows of
starts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sst_cvx as sst
from polytopes.kernels.box import box_violation
from polytopes.kernels.log_weights import draw_one, widened
from sst_cvx.arguments import check_size, check_vertex_count
from sst_cvx.autodiff import gradient
from sst_cvx.host import stops_early
from sst_cvx.once import constants, later

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")

Operation = Callable[..., torch.Tensor]


class Segment(sst.Structure, final=True):
    """A run of consecutive items; event shape ``(n,)``.

    Args:
        n: number of items, at least 1.
        min_length, max_length: bounds of the run's length, 1 <= min_length <= max_length <= n; by default any length.
    """

    known_binary = True
    known_bounded = True
    argmax_on_device = True
    prefers_active_set = True

    def __init__(self, n: int, min_length: int = 1, max_length: int | None = None):
        self.n = check_size("n", n, 1)
        self.min_length = check_size("min_length", min_length, 1, n)
        self.max_length = n if max_length is None else check_size("max_length", max_length, min_length, n)
        super().__init__(event_shape=(self.n,))

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        count, width = self.n - self.min_length + 1, self.max_length - self.min_length + 1
        x, started = cp.Variable(self.n), cp.Variable(count)
        ended = cp.Variable(count) if width > 1 else started
        hull = [started[0] >= 0, started[-1] == 1]
        if count > 1:
            hull.append(cp.diff(started) >= 0)
        if width > 1:
            hull += [ended[0] >= 0, ended[-1] == 1, ended <= started, cp.diff(ended) >= 0]
        if 1 < width < count:
            hull.append(ended[width - 1 :] >= started[: 1 - width])
        on = cp.hstack([started, np.ones(self.min_length - 1)])
        hull.append(x == on - cp.hstack([np.zeros(self.min_length), ended[:-1]]) if count > 1 else x == on)
        return x, hull

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """The run of largest sum; on the device of ``u``."""
        return self._run(u, torch.maximum, lambda scores: scores.argmax(-1))

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A run drawn with probability proportional to exp <u, x>, exact: same shape, dtype and device as ``u``."""

        def draw(scores: torch.Tensor) -> torch.Tensor:
            return draw_one(scores.log_softmax(-1).reshape(-1, scores.shape[-1]), generator).reshape(scores.shape[:-1])

        return self._run(u, _log_sum, draw)

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        """What can be seen without starts and ends: entries in [0, 1], the length, one rise and one fall in all."""
        changes = torch.nn.functional.pad(x, (1, 1)).diff(dim=-1).abs().sum(-1) / 2 - 1
        return torch.maximum(box_violation(x, self.min_length, self.max_length), changes / self.n)

    @constants()
    def vertices(self) -> torch.Tensor:
        lengths = range(self.min_length, self.max_length + 1)
        check_vertex_count(self, sum(self.n - length + 1 for length in lengths))
        starts, ends = torch.tensor([(i, i + length) for length in lengths for i in range(self.n - length + 1)]).T
        return _between(starts, ends, self.n).double()

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over runs of exp of their sums; differentiable twice."""
        before, after = self._sums(u)
        return (self._windows(before, _log_sum) + after).logsumexp(-1).to(u.dtype)

    def marginals(self, u: torch.Tensor) -> torch.Tensor:
        """The gradient of ``log_partition``, without autograd: chances of a start so far, less those of an end."""
        before, after = self._sums(u)
        start = (before + self._windows(after.flip(-1), _log_sum).flip(-1)).softmax(-1)
        end = (self._windows(before, _log_sum) + after).softmax(-1)
        later = self.min_length - 1
        started = torch.nn.functional.pad(start.cumsum(-1), (0, later), value=1.0)
        ended = torch.nn.functional.pad(end.cumsum(-1), (self.min_length, 0))[..., : self.n]
        return (started - ended).clamp(0.0, 1.0).to(u.dtype)

    def _sums(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What a run's score is the sum of, by its start and by its end; float64, as differences lose digits."""
        prefix = torch.nn.functional.pad(u.double().cumsum(-1), (1, 0))
        return -prefix[..., : self.n - self.min_length + 1], prefix[..., self.min_length :]

    def _windows(self, values: torch.Tensor, combine: Operation) -> torch.Tensor:
        """For every end, the sum in a semiring over the starts it allows: the last ``width`` of them.

        From sums over windows of 1, 2, 4, ..., joined as the binary digits of the width say.
        """
        width = min(self.max_length - self.min_length + 1, values.shape[-1])
        windows, done, size = values[..., :0], 0, 1
        while done < width:
            if width & size:
                windows = _join(windows, values, done, combine) if done else values
                done += size
            values, size = _join(values, values, size, combine), 2 * size
        return windows

    def _run(self, u: torch.Tensor, combine: Operation, choose: Operation) -> torch.Tensor:
        """The run whose end, and then start, are chosen by their scores."""
        before, after = self._sums(u)
        last = choose(self._windows(before, combine) + after)[..., None]
        place = torch.arange(before.shape[-1], device=u.device)
        allowed = (place <= last) & (place > last - (self.max_length - self.min_length + 1))
        start = choose(before.masked_fill(~allowed, -torch.inf))
        return _between(start, last[..., 0] + self.min_length, self.n).to(u.dtype)

    def _key(self) -> Hashable:
        return self.n, self.min_length, self.max_length

    def __repr__(self) -> str:
        return f"Segment(n={self.n}, min_length={self.min_length}, max_length={self.max_length})"


@sst.fast_path(Segment, sst.ExponentialFamilyEntropy)
def exponential_family(structure: Segment, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor) -> torch.Tensor:
    return gradient(structure.log_partition, u) if stops_early(u) else structure.marginals(u)


def _between(starts: torch.Tensor, ends: torch.Tensor, n: int) -> torch.Tensor:
    """``(*batch, n)`` bool: items from each start up to, and without, its end."""
    place = torch.arange(n, device=starts.device)
    return (place >= starts[..., None]) & (place < ends[..., None])


def _join(late: torch.Tensor, early: torch.Tensor, steps: int, combine: Operation) -> torch.Tensor:
    """Windows joined with those that are ``steps`` before them, where there are any."""
    return torch.cat([late[..., :steps], combine(late[..., steps:], early[..., : late.shape[-1] - steps])], -1)


def _log_sum(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """As ``torch.logaddexp``, whose second derivative is NaN where the two are 400 apart."""
    return torch.stack([first, second]).logsumexp(0)
