"""Structures whose elements are the paths of a directed acyclic graph: what their dynamic programs share.

A path collects the items of its edges. Hull: unit flow y >= 0 on the edges, integral as incidence matrices are totally
unimodular, and x = M y, which sums the flow of the edges that carry an item. Best element, sums and samples are one
recursion over the graph (``kernels/dag_sums.py``).

To add a dynamic program: ``class Mine(Lattice, final=True)``, whose ``__init__`` hands over its graph; ``_key`` and
``__repr__``. Its fast path for the exponential family is registered by itself, and ``budget`` is there for all.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sst_cvx as sst
from polytopes.kernels.box import box_violation
from polytopes.kernels.counter import counted
from polytopes.kernels.dag_sums import PathGraph
from polytopes.kernels.log_weights import widened
from polytopes.kernels.tables import Table
from sst_cvx.arguments import check_size, check_vertex_count
from sst_cvx.once import computed_once, constants, later

if TYPE_CHECKING:
    import cvxpy as cp
    import scipy.sparse as sp
else:
    cp = later("cvxpy")
    sp = later("scipy.sparse")

FREE = -1  # the item of an edge that carries none


def exponential_family(structure: Lattice, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor) -> torch.Tensor:
    """The gradient of ``log_partition``, by its own recursion: no autograd inside, which programs that are exported do
    not take."""
    return structure.marginals(u)


class Lattice(sst.Structure, abstract=True):
    """Base of structures whose elements correspond one to one to the paths from source to target of an acyclic graph.

    Args:
        event_shape: of the items, which are numbered in C order.
        tails, heads: ``(edges,)`` integers.
        items: ``(edges,)``: which entry of the event an edge sets to 1; ``FREE`` for none. Several edges may carry an
            item, but no path passes two of them, and no two paths have the same items: a subclass sees to both.
        source, target: vertices.
        empty: what to say where there is no path.

    Raises:
        ValueError: a cycle, or no path.
    """

    known_binary = True
    known_bounded = True
    argmax_on_device = True
    prefers_active_set = True  # from 30 edges on as fast, 1.5 to 100 times faster from 50 on (more with a flow)

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
        empty: str = "there is no path from source to target.",
    ):
        size = math.prod(event_shape)
        self._graph = PathGraph(tails, heads, source, target)
        if not self._graph.reachable:
            raise ValueError(empty)
        live = self._graph.live
        #: Whether edges are items, in this order.
        self._same = len(items) == size and bool((items == np.arange(size)).all())
        if not self._same and live.mean() < 0.9:
            tails, heads, items = tails[live], heads[live], items[live]
            self._graph, live = PathGraph(tails, heads, source, target), np.ones(len(tails), dtype=bool)
        #: Whether every item is that of one edge, and every edge carries one: flow and event are the same numbers.
        self._own = bool((np.bincount(items[items >= 0], minlength=size) <= 1).all() and (items >= 0).all())
        used = np.zeros(size, dtype=bool)
        used[items[live & (items >= 0)]] = True
        self._items = Table(torch.from_numpy(items % (size + 1)))
        self._unused = None if used.all() else Table(torch.from_numpy(~used))
        self._arrays = tails, heads, items
        super().__init__(event_shape=event_shape)

    @property
    def sees_hull(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._own

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        x, live = cp.Variable(self.event_shape), self._graph.live
        tails, heads, items = (part[live] for part in self._arrays)
        balance, supply = _balance(tails, heads, self._graph.source, self._graph.target)
        flat = x if len(self.event_shape) == 1 else cp.vec(x, order="C")
        if self._own:
            unused = np.flatnonzero(np.bincount(items, minlength=self.event_size) == 0)
            absent = [flat[unused] == 0] if len(unused) else []
            return x, [x >= 0, *absent, balance @ _choice(items, self.event_size).T @ flat == supply]
        flow = cp.Variable(len(items))
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
        if self._own:
            flow = x if self._same else x.index_select(-1, self._items.on(x.device))
            outside = torch.maximum(self._graph.imbalance(flow), -x.amin(-1))
        else:
            outside = box_violation(x, *self._counts)
        if self._unused is None:
            return outside
        return torch.maximum(outside, torch.where(self._unused.on(x.device), x, 0.0).abs().amax(-1))

    def prepare(self) -> None:
        if not self._own:
            _ = self._counts

    def budget(self, costs: torch.Tensor, at_most: int | None = None, at_least: int = 0) -> Budgeted:
        """The elements whose items cost no more and no less: "at most k segments with label c".

        Exact: paths of this graph times a counter, up to at_most + 1 times as large, whatever can neither be reached
        nor finish left out. What it returns has every method of this structure, ``budget`` included.

        Args:
            costs: of the event's shape, integers from 0, or bool.
            at_most, at_least: bounds of the sum of the costs of an element's items; None for no upper bound.

        Raises:
            TypeError, ValueError: no such tensor, no such numbers, or no element that keeps the budget.
        """
        graph = *self._arrays, self._graph.source, self._graph.target
        return Budgeted(self, graph, costs, at_most, at_least)


class Budgeted(Lattice, final=True):
    """What ``budget`` returns: the elements of a structure whose items' costs sum to a number between two bounds.

    Args:
        whole: a structure of 0/1 arrays, whose elements correspond to the paths of a graph.
        graph: its (tails, heads, items, source, target), as for ``Lattice``.
        costs, at_most, at_least: as for ``Lattice.budget``.
    """

    def __init__(
        self,
        whole: sst.Structure,
        graph: tuple[np.ndarray, np.ndarray, np.ndarray, int, int],
        costs: torch.Tensor,
        at_most: int | None = None,
        at_least: int = 0,
    ):
        self.whole, self.costs = whole, _checked_costs(costs, whole.event_shape)
        self.at_least = check_size("at_least", at_least, 0)
        self.at_most = None if at_most is None else check_size("at_most", at_most, self.at_least)
        tails, heads, items, source, target = graph
        live = PathGraph(tails, heads, source, target).live
        tails, heads, items = tails[live], heads[live], items[live]
        of_edges = np.append(self.costs.numpy().ravel(), 0)[items]
        found = counted(tails, heads, of_edges, source, target, self.at_least, self.at_most)
        empty = f"no element of {whole!r} keeps the budget: choose other bounds."
        if found is None:
            raise ValueError(empty)
        tails, heads, edges, source, target = found
        self._prices = Table(self.costs.double().flatten())
        super().__init__(whole.event_shape, tails, heads, items[edges], source, target, empty)

    def violation_by_tensors(self, x: torch.Tensor) -> torch.Tensor:
        outside = torch.maximum(self.whole.violation_by_tensors(x), super().violation_by_tensors(x))
        spent = x @ self._prices.on(x.device).to(x.dtype)
        beyond = self.at_least - spent
        if self.at_most is not None:
            beyond = torch.maximum(beyond, spent - self.at_most)
        return torch.maximum(outside, beyond / (1 + max(self.at_least, self.at_most or 0)))

    def prepare(self) -> None:
        self.whole.prepare()
        super().prepare()

    def length_mask(self, *lengths: torch.Tensor) -> torch.Tensor:
        """That of the whole structure."""
        return self.whole.length_mask(*lengths)  # pyright: ignore[reportAttributeAccessIssue]

    def fillers(self, allowed: torch.Tensor) -> torch.Tensor | None:
        """Those of the whole lattice, where they cost nothing. Else padding leaves no element, and is refused: it would
        count, or (of a ``Chain``) is none that is always the same."""
        found = self.whole.fillers(allowed) if isinstance(self.whole, Lattice) else None
        if found is None:
            return None
        priced = (self._prices.on(found.device) > 0).reshape(self.event_shape)
        axes = tuple(range(-len(self.event_shape), 0))
        return found & ~(found & priced).any(axes, keepdim=True)

    def _key(self) -> Hashable:
        return self.whole, tuple(self.costs.flatten().tolist()), self.at_most, self.at_least

    def __repr__(self) -> str:
        least = f", at_least={self.at_least}" if self.at_least else ""
        return f"{self.whole!r}.budget(at_most={self.at_most}{least})"


def _checked_costs(costs: object, shape: tuple[int, ...]) -> torch.Tensor:
    if not isinstance(costs, torch.Tensor) or costs.is_floating_point() or costs.is_complex():
        raise TypeError("costs must be an integer or bool tensor.")
    if costs.shape != shape:
        raise ValueError(f"costs must have the event's shape {tuple(shape)}, got {tuple(costs.shape)}.")
    if int(costs.min()) < 0:
        raise ValueError("costs must not be negative.")
    return costs.detach().to("cpu", torch.long).clone()


def _choice(items: np.ndarray, size: int) -> sp.csr_array:
    """``(size, edges)``: 1 where an edge carries an item."""
    held = np.flatnonzero(items >= 0)
    return sp.csr_array((np.ones(len(held)), (items[held], held)), shape=(size, len(items)))


def _balance(tails: np.ndarray, heads: np.ndarray, source: int, target: int) -> tuple[sp.csr_array, np.ndarray]:
    """``(vertices, edges)``: 1 where an edge leaves a vertex, -1 where it enters; and the supply of each vertex."""
    on, ends = np.unique([tails, heads], return_inverse=True)
    ends, edges = ends.reshape(2, -1), np.arange(len(tails))
    leave, enter = (sp.csr_array((np.ones(len(edges)), (end, edges)), shape=(len(on), len(edges))) for end in ends)
    return leave - enter, (on == source) * 1.0 - (on == target)
