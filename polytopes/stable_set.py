"""Sets of pairwise disjoint intervals, the stable sets of an interval graph:
X = { x in {0, 1}^n : at most ``capacity`` of the chosen intervals are at any one point }, capacity = 1.

Hull: 0 <= x <= 1 and one row x(C) <= capacity for every maximal clique C, the intervals around one point. Sorted by
these points, cliques make columns of consecutive ones, so the matrix is totally unimodular (Fulkerson and Gross 1965).
With capacity 1, chosen intervals and the steps between them are a path along the line, one to one: argmax,
log-partition and samples are those of a graph of an edge an interval and an edge a step (``kernels/dag_sums.py``).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sst_cvx as sst
from polytopes.enumerated import Enumerated
from polytopes.kernels.dag_sums import PathGraph
from polytopes.kernels.integer_points import few, integer_points, refusal
from polytopes.kernels.log_weights import widened
from polytopes.kernels.tables import Table
from sst_cvx.arguments import check_finite, check_size, check_vertex_count
from sst_cvx.once import constants, later

if TYPE_CHECKING:
    import cvxpy as cp
    import scipy.sparse as sp
else:
    cp = later("cvxpy")
    sp = later("scipy.sparse")

Times = torch.Tensor | Sequence[float]


class StableSet(Enumerated, final=True):
    """Chosen intervals, at most ``capacity`` of them at any one time; event shape ``(n,)``.

    Intervals are half-open, [start, end): one may start where another ends. Closed ones of integers are
    ``StableSet(starts, ends + 1)``. A capacity that is learned, e.g. how many rooms to rent for talks::

        talks = polytopes.StableSet(starts, ends, None)
        soft, rooms = sst.SoftArgmax(talks, sst.Euclidean()), torch.tensor(1.5, requires_grad=True)
        x = soft(u, 0.1, capacity=rooms)
        (rent * rooms - (u * x).sum()).backward()               # rooms.grad: the rent of a room, less what it is worth

    Args:
        starts, ends: ``(n,)``, real numbers, each start before its end.
        capacity: most chosen intervals at any one time, an integer from 0; 1: they are disjoint. None: given with each
            call as the hull parameter ``capacity``, one a row, at least 0. The soft argmax is differentiable in it. It
            need not be an integer, but ``argmax`` is integral only where it is. There is then no log-partition, no
            sampling, no list of vertices and no mask.

    Attributes:
        starts, ends: ``(n,)``, int64 if both are integers, else float64; in the order of the event.

    Raises:
        TypeError, ValueError: no real vectors of one size, or an end that is not after its start.
    """

    known_binary = True
    known_bounded = True
    sees_hull = True  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]

    @property
    def argmax_on_device(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """By the graph, where there is one."""
        return self.capacity == 1

    @property
    def prefers_active_set(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where argmax is the graph's: mostly 2 to 10 times faster than the interior point, at 5 to 500 intervals,
        batches of 1 to 32 and t = 1 to 0.1. By linear programs it is up to 10 times slower."""
        return self.capacity == 1

    def __init__(self, starts: Times, ends: Times, capacity: int | None = 1):
        self.starts, self.ends = _check_intervals(starts, ends)
        self.n = len(self.starts)
        self.capacity = None if capacity is None else check_size("capacity", capacity, 0)
        # Only their order counts: time k is the k-th distinct start; an interval is at times first, ..., last - 1.
        times, first = self.starts.unique(return_inverse=True)
        last = torch.searchsorted(times, self.ends)
        self._first, self._last, self._times = Table(first), Table(last), len(times)
        self._columns = first.numpy(), last.numpy()
        if self.capacity == 1:
            steps = np.arange(self._times)
            tails, heads = (np.append(ends, steps + i) for i, ends in enumerate(self._columns))
            self._graph = PathGraph(tails, heads, 0, self._times)
        elif not few(np.ones(self.n)):
            self.log_partition_refusal = refusal(self, "sets of intervals with a capacity other than 1")
        if self.capacity is not None:
            super().__init__(event_shape=(self.n,))
            return
        self.log_partition_refusal = "with capacity=None there is no log-partition, sampling or list of vertices"
        x = cp.Variable(self.n)
        most = cp.Parameter(name="capacity", nonneg=True)
        super().__init__(x, [x >= 0, x <= 1, self._cliques() @ x <= most])

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        x, cliques, capacity = cp.Variable(self.n), self._cliques(), self._fixed()
        cliques = cliques[np.flatnonzero(cliques.sum(axis=1) > capacity)]
        return x, [x >= 0, x <= 1, *([cliques @ x <= capacity] if cliques.shape[0] else [])]

    def _cliques(self) -> Any:
        """``(cliques, n)``, sparse, of maximal ones: intervals at each time that is the last of some interval."""
        first, last = self._columns
        ends = np.unique(last)
        start, stop = np.searchsorted(ends, first, side="right"), np.searchsorted(ends, last, side="right")
        count = stop - start
        rows = np.arange(count.sum()) + np.repeat(start - (count.cumsum() - count), count)
        pointers = np.append(0, count.cumsum())
        return sp.csr_array(sp.csc_array((np.ones(len(rows)), rows, pointers), shape=(len(ends), self.n)))

    def argmax(self, u: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        """A best set: by dynamic programming over the line, on the device of ``u``, where intervals are disjoint; else
        HiGHS, one linear program a batch element."""
        if self.capacity != 1:
            return super().argmax(u, **parameters)
        self.flat_parameters(parameters, u.shape[:-1])  # there are none
        return self._graph.best(self._along(u))[..., : self.n]

    def has_vertices(self) -> bool:
        return self.capacity is not None

    @constants()
    def vertices(self) -> torch.Tensor:
        capacity = self._fixed()
        if capacity == 1:
            check_vertex_count(self, self._graph.count())
            return self._graph.paths()[:, : self.n].contiguous()
        rows, ones = self._cliques().toarray(), np.ones(self.n)
        points = integer_points(rows, np.zeros(len(rows)), np.full(len(rows), capacity), ones, repr(self))
        check_vertex_count(self, len(points))
        return torch.from_numpy(points)

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over sets of exp of the sum of their utilities; differentiable any number of times.

        Raises:
            ValueError: a capacity other than 1, and more than 12 intervals.
        """
        return self._graph.log_sum(self._along(u)) if self.capacity == 1 else self.listed.log_partition(u)

    def marginals(self, u: torch.Tensor) -> torch.Tensor:
        """The gradient of ``log_partition``, without autograd."""
        if self.capacity == 1:
            return self._graph.marginals(self._along(u))[..., : self.n]
        return self.listed.marginals(u)

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A set drawn with probability proportional to exp <u, x>, exact: same shape, dtype and device as ``u``."""
        if self.capacity == 1:
            return self._graph.sample(self._along(u), generator)[..., : self.n]
        return super().sample(u, generator)

    @property
    def by_list(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where intervals may overlap: disjoint ones are paths."""
        return self.capacity != 1

    def _along(self, u: torch.Tensor) -> torch.Tensor:
        """Utilities of the graph's edges: intervals, and steps at 0."""
        return torch.nn.functional.pad(u, (0, self._times))

    def violation(self, x: torch.Tensor, parameters: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        if self.capacity is None:
            return self.hull.violation(x, parameters)
        return self.violation_by_tensors(x.double())

    def violation_by_tensors(self, x: torch.Tensor) -> torch.Tensor:
        """By entries, and by how many intervals are at each time."""
        first, last = self._first.on(x.device), self._last.on(x.device)
        changes = x.new_zeros(*x.shape[:-1], self._times + 1).index_add(-1, first, x).index_add(-1, last, -x)
        excess = changes.cumsum(-1)[..., :-1].amax(-1) - self._fixed()
        worst = torch.maximum(-x.amin(-1), (x.amax(-1) - 1) / 2)
        return torch.maximum(worst, excess / (1 + self._fixed()))

    def _fixed(self) -> int:
        if self.capacity is None:
            raise NotImplementedError(f"{self!r}: {self.log_partition_refusal}: use the structure with an integer.")
        return self.capacity

    def _key(self) -> Hashable:
        return tuple(self._columns[0].tolist()), tuple(self._columns[1].tolist()), self.capacity

    def __repr__(self) -> str:
        return f"StableSet(n={self.n}, capacity={self.capacity})"


def _check_intervals(starts: Times, ends: Times) -> tuple[torch.Tensor, torch.Tensor]:
    """``(n,)`` each on the CPU; int64, which is exact for time stamps, or float64."""
    found: list[torch.Tensor] = []
    for name, given in (("starts", starts), ("ends", ends)):
        try:
            times = torch.as_tensor(given).detach().cpu()
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} must be a vector of real numbers, got {given!r}.") from None
        if times.is_complex() or times.dtype == torch.bool:
            raise TypeError(f"{name} must be real, got {times.dtype}.")
        if times.dim() != 1 or not times.numel():
            raise ValueError(f"{name} must be a vector of at least one number, got shape {tuple(times.shape)}.")
        check_finite(times.double(), name)
        found.append(times)
    whole = not any(times.is_floating_point() for times in found)
    found = [times.to(torch.long if whole else torch.float64, copy=True) for times in found]
    if len(found[0]) != len(found[1]):
        raise ValueError(f"starts and ends must be as many, got {len(found[0])} and {len(found[1])}.")
    wrong = torch.nonzero(~(found[0] < found[1])).flatten()
    if wrong.numel():
        i = int(wrong[0])
        raise ValueError(f"interval {i} must end after its start, but is [{found[0][i]}, {found[1][i]}).")
    return found[0], found[1]


@sst.fast_path(StableSet, sst.ExponentialFamilyEntropy)
def exponential_family(
    structure: StableSet, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor
) -> torch.Tensor:
    return structure.marginals(u)
