"""Structures whose elements are the paths of a directed acyclic graph: what their dynamic programs share.

A path collects the items of its edges. Hull: unit flow y >= 0 on the edges, integral as incidence matrices are totally
unimodular, and x = M y, which sums the flow of the edges that carry an item. Best element, sums and samples are one
recursion over the graph (``kernels/dag_sums.py``).

To add a dynamic program: ``class Mine(Lattice, final=True)``, whose ``__init__`` hands over its graph; ``_key`` and
``__repr__``. Its fast path for the exponential family is registered by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sst_cvx as sst
from polytopes.kernels.box import box_violation
from polytopes.kernels.dag_sums import PathGraph
from polytopes.kernels.log_weights import widened
from polytopes.kernels.tables import Table
from sst_cvx.arguments import check_vertex_count
from sst_cvx.once import computed_once, constants, later

if TYPE_CHECKING:
    import cvxpy as cp
    import scipy.sparse as sp
else:
    cp = later("cvxpy")
    sp = later("scipy.sparse")

FREE = -1  # the item of an edge that carries none


class Lattice(sst.Structure, abstract=True):
    """Base of structures whose elements correspond one to one to the paths from source to target of an acyclic graph.

    Args:
        event_shape: of the items, which are numbered in C order.
        tails, heads: ``(edges,)`` integers.
        items: ``(edges,)``: which entry of the event an edge sets to 1; ``FREE`` for none. Several edges may carry an
            item, but no path passes two of them, and no two paths have the same items: a subclass sees to both.
        source, target: vertices.

    Raises:
        ValueError: a cycle, or no path.
    """

    known_binary = True
    known_bounded = True
    argmax_on_device = True

    def __init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(abstract=abstract, **kwargs)
        if not abstract and Lattice in cls.__bases__:
            sst.fast_path(cls, sst.ExponentialFamilyEntropy)(exponential_family)

    def __init__(
        self,
        event_shape: Sequence[int],
        tails: np.ndarray,
        heads: np.ndarray,
        items: np.ndarray,
        source: int,
        target: int,
    ):
        size = math.prod(event_shape)
        self._graph = PathGraph(tails, heads, source, target)
        if not self._graph.reachable:
            raise ValueError(f"there is no path from {source} to {target}.")
        #: Whether edges are items, in this order.
        self._same = len(items) == size and bool((items == np.arange(size)).all())
        if not self._same and not self._graph.live.all():
            live = self._graph.live
            tails, heads, items = tails[live], heads[live], items[live]
            self._graph = PathGraph(tails, heads, source, target)
        used = np.bincount(items[items >= 0], minlength=size)
        #: Whether every item is that of one edge, and every edge carries one: flow and event are the same numbers.
        self._own = bool((used <= 1).all() and (items >= 0).all())
        self._items, self._unused = Table(torch.from_numpy(items % (size + 1))), Table(torch.from_numpy(used == 0))
        self._ends = tails, heads
        super().__init__(event_shape=event_shape)

    @property
    def sees_hull(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._own

    @property
    def prefers_active_set(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Measured on ``Path``, forward and backward at t = 1 to 0.1 and batches of 1 to 32: even at 500 edges, from
        1,000 on up to 30 times faster than a factorisation of the hull."""
        return self._graph.edges >= 1000

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        x, (tails, heads), live = cp.Variable(self.event_shape), self._ends, np.flatnonzero(self._graph.live)
        items = self._items.on(torch.device("cpu")).numpy()[live]
        balance, supply = _balance(tails[live], heads[live], self._graph.source, self._graph.target)
        flat = x if len(self.event_shape) == 1 else cp.vec(x, order="C")
        if self._own:
            unused = np.flatnonzero(np.bincount(items, minlength=self.event_size) == 0)
            absent = [flat[unused] == 0] if len(unused) else []
            return x, [x >= 0, *absent, balance @ _choice(items, self.event_size).T @ flat == supply]
        flow = cp.Variable(len(live))
        return x, [flow >= 0, balance @ flow == supply, flat == _choice(items, self.event_size) @ flow]

    def _scores(self, u: torch.Tensor) -> torch.Tensor:
        """Of edges: ``(*batch, *event_shape)`` to ``(*batch, edges)``."""
        flat = u.reshape(*u.shape[: u.dim() - len(self.event_shape)], self.event_size)
        if self._same:
            return flat
        padded = flat if self._own else torch.nn.functional.pad(flat, (0, 1))
        return padded.index_select(-1, self._items.on(u.device))

    def _event(self, y: torch.Tensor) -> torch.Tensor:
        """Of flows ``(*batch, edges)`` the event ``(*batch, *event_shape)``; its transpose."""
        if not self._same:
            flat = y.new_zeros(*y.shape[:-1], self.event_size + 1)
            y = flat.scatter_add(-1, self._items.on(y.device).expand(y.shape), y)[..., :-1]
        return y.reshape(*y.shape[:-1], *self.event_shape)

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """A best path's items, over the whole batch at once, on the device of ``u``."""
        return self._event(self._graph.best(self._scores(u)))

    @constants()
    def vertices(self) -> torch.Tensor:
        check_vertex_count(self, self._graph.count())
        return self._event(self._graph.paths())

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over paths of exp of the sum of their items' utilities; differentiable any number of times."""
        return self._graph.log_sum(self._scores(u))

    def marginals(self, u: torch.Tensor) -> torch.Tensor:
        """The gradient of ``log_partition``, of the shape of ``u``; any derivative, and no autograd inside."""
        return self._event(self._graph.marginals(self._scores(u)))

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A path drawn with probability proportional to exp <u, x>, exact: same shape, dtype and device as ``u``."""
        return self._event(self._graph.sample(self._scores(u), generator))

    @computed_once
    def _counts(self) -> tuple[int, int]:
        """The fewest and the most items of a path."""
        one = self._scores(torch.ones(self.event_shape, dtype=torch.float64))
        fewest, most = (self._graph.best(torch.stack([-one, one])) @ one).tolist()
        return round(fewest), round(most)

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        """How far points ``(batch, size)`` are outside the hull; where several edges share an item, what can be seen
        without the flow: a box, the numbers of items, and those that no path has."""
        return self.violation_by_tensors(x.double())

    def violation_by_tensors(self, x: torch.Tensor) -> torch.Tensor:
        absent = torch.where(self._unused.on(x.device), x, 0.0).abs().amax(-1)
        if not self._own:
            return torch.maximum(absent, box_violation(x, *self._counts))
        flow = x if self._same else x.index_select(-1, self._items.on(x.device))
        return torch.maximum(absent, torch.maximum(self._graph.imbalance(flow), -x.amin(-1)))

    def prepare(self) -> None:
        if not self._own:
            _ = self._counts


def exponential_family(structure: Lattice, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor) -> torch.Tensor:
    """The gradient of ``log_partition``, by its own recursion: no autograd inside, which programs that are exported do
    not take."""
    return structure.marginals(u)


def _choice(items: np.ndarray, size: int) -> sp.csr_array:
    """``(size, edges)``: 1 where an edge carries an item."""
    held = np.flatnonzero(items < size)
    return sp.csr_array((np.ones(len(held)), (items[held], held)), shape=(size, len(items)))


def _balance(tails: np.ndarray, heads: np.ndarray, source: int, target: int) -> tuple[sp.csr_array, np.ndarray]:
    """``(vertices, edges)``: 1 where an edge leaves a vertex, -1 where it enters; and the supply of each vertex."""
    on, ends = np.unique([tails, heads], return_inverse=True)
    ends, edges = ends.reshape(2, -1), np.arange(len(tails))
    leave, enter = (sp.csr_array((np.ones(len(edges)), (end, edges)), shape=(len(on), len(edges))) for end in ends)
    return leave - enter, (on == source) * 1.0 - (on == target)
