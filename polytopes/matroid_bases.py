"""Bases of a matroid: X = { indicators of the independent sets of largest size }, for any matroid with a rank oracle.

Hull (Edmonds 1971): x >= 0, x(S) <= r(S) for all sets S, x(E) = r(E). The sets that count are the inseparable flats:
those that no element can join without raising the rank, and that are no sum of two others. Argmax: the greedy
algorithm. The Euclidean soft argmax goes by the active-set path, with the greedy algorithm as its oracle.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import torch

import sst_cvx as sst
from polytopes.kernels.precision import widened
from polytopes.kernels.subset_sums import log_elementary_symmetric
from polytopes.spanning_tree import SpanningTree
from sst_cvx.arguments import check_edge_index, check_size, check_vertex_count
from sst_cvx.once import computed_once, constants

#: Sets ``(*batch, n)``, bool, to their ranks ``(*batch,)``, integer.
RankOracle = Callable[[torch.Tensor], torch.Tensor]

_EXHAUSTIVE = 12  # elements up to which all 2^n sets are looked at
_ENUMERATED = 20_000  # sets of r elements up to which the log-partition is a sum over bases
_PROBES = 4000  # random sets on which the axioms are tested beyond


@dataclass(frozen=True)
class _Known:
    """What a family of matroids gives beyond ranks."""

    name: str
    log_partition: Callable[[torch.Tensor], torch.Tensor]
    hull: Callable[[Any], list[Any]] | None = None  # constraints on the event


class MatroidBases(sst.Structure, final=True):
    """Bases of a matroid on n elements; event shape ``(n,)``. Loops are in no basis, coloops in all.

    See ``uniform``, ``partition`` and ``graphic`` for matroids whose log-partition is known at any size; by a rank
    oracle it is a sum over bases, where there are few. Beyond 12 elements a matroid has no hull here, unless it is a
    partition matroid: then only Euclidean() and, where known, ExponentialFamilyEntropy() have a path.

    Args:
        n: number of elements, at least 1.
        rank: sets ``(*batch, n)``, bool, to ranks ``(*batch,)``, integer, on the same device.

    Attributes:
        size: number of elements of every basis.

    Raises:
        TypeError, ValueError: no function of this kind, or ranks that break an axiom (all sets are tested up to 12
            elements, random ones beyond), naming the sets.
    """

    known_binary = True
    prefers_active_set = True

    def __init__(self, n: int, rank: RankOracle, *, _known: _Known | None = None):
        self.n = check_size("n", n, 1)
        if not callable(rank):
            raise TypeError(f"rank must be a function of sets (*batch, {n}), got {type(rank).__name__}.")
        self._oracle, self._known = rank, _known
        self.size = int(self.rank(torch.ones(n, dtype=torch.bool)))
        self._table = self._all_ranks() if n <= _EXHAUSTIVE else None
        self._check_axioms()
        x, constraints = cp.Variable(n), None
        if _known is not None and _known.hull is not None:
            constraints = _known.hull(x)
        elif self._table is not None:
            constraints = _rank_constraints(x, self._table)
        super().__init__(x, constraints)
        if _known is None and math.comb(n, self.size) > _ENUMERATED:
            self.log_partition_refusal = (
                f"{self!r} is given by a rank oracle and may have {math.comb(n, self.size)} bases, too many to sum "
                f"over (limit {_ENUMERATED}); uniform, partition and graphic matroids have a log-partition at any size"
            )

    @classmethod
    @constants()
    def uniform(cls, n: int, k: int) -> MatroidBases:
        """All sets of k elements (as ``KSubset``)."""
        n = check_size("n", n, 1)
        k = check_size("k", k, 0, n)
        groups = torch.zeros(n, dtype=torch.long)
        rank, known = _partition(groups, torch.tensor([k]), f"uniform({n}, {k})")
        return cls(n, rank, _known=known)

    @classmethod
    @constants()
    def partition(cls, groups: torch.Tensor, capacities: Sequence[int] | torch.Tensor) -> MatroidBases:
        """As many elements of each group as it has room for.

        Args:
            groups: ``(n,)``, integer, the group of each element, from 0.
            capacities: one for each group, at least 0.
        """
        if not isinstance(groups, torch.Tensor) or groups.is_floating_point() or groups.dtype == torch.bool:
            raise TypeError("groups must be an integer tensor (n,).")
        if groups.dim() != 1 or not groups.numel() or int(groups.min()) < 0:
            raise ValueError(f"groups must be (n,), numbers from 0, got shape {tuple(groups.shape)}.")
        limits = [check_size("capacities", int(c), 0) for c in capacities]
        if int(groups.max()) >= len(limits):
            raise ValueError(f"groups name group {int(groups.max())}, but there are {len(limits)} capacities.")
        groups = groups.detach().to("cpu", torch.long)
        name = f"partition({len(groups)} elements, capacities={limits})"
        rank, known = _partition(groups, torch.tensor(limits), name)
        return cls(len(groups), rank, _known=known)

    @classmethod
    @constants()
    def graphic(cls, edge_index: torch.Tensor) -> MatroidBases:
        """Spanning forests of a graph ``(2, edges)``, which may have parallel edges, loops and several components.

        A spanning tree of every component. For connected graphs ``SpanningTree`` has a hull at any size.
        """
        edge_index, vertices = check_edge_index(edge_index)
        name = f"graphic({vertices} vertices, {edge_index.shape[1]} edges)"
        forest = _Forest(edge_index, vertices)
        known = _Known(name, forest.log_partition)
        return cls(edge_index.shape[1], forest.rank, _known=known)

    def rank(self, sets: torch.Tensor) -> torch.Tensor:
        """Ranks ``(*batch,)``, int64, of sets ``(*batch, n)``, bool.

        Raises:
            TypeError, ValueError: what the oracle returns is no integer tensor, or has another shape.
        """
        r = self._oracle(sets)
        if not isinstance(r, torch.Tensor) or r.is_floating_point() or r.is_complex() or r.dtype == torch.bool:
            raise TypeError(
                f"rank must return an integer tensor, got {r.dtype if isinstance(r, torch.Tensor) else r!r}."
            )
        if r.shape != sets.shape[:-1]:
            raise ValueError(
                f"rank must map sets {tuple(sets.shape)} to {tuple(sets.shape[:-1])}, got {tuple(r.shape)}."
            )
        return r.to(sets.device, torch.long)

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """A basis of largest sum, by the greedy algorithm: the elements, best first, at which the rank rises.

        One call of the rank oracle for all prefixes of the whole batch, on the device of ``u``.
        """
        place = u.sort(dim=-1, descending=True, stable=True).indices.argsort(-1)
        prefixes = place[..., None, :] <= torch.arange(self.n, device=u.device)[:, None]
        ranks = self.rank(prefixes)
        rises = torch.diff(ranks, dim=-1, prepend=torch.zeros_like(ranks[..., :1]))
        return rises.gather(-1, place).to(u.dtype)

    @constants()
    def vertices(self) -> torch.Tensor:
        if self._table is not None:
            sets = _all_sets(self.n)
            return torch.as_tensor(sets[(self._table == self.size) & (sets.sum(1) == self.size)]).double()
        check_vertex_count(self, math.comb(self.n, self.size))
        chosen = torch.tensor(list(itertools.combinations(range(self.n), self.size)), dtype=torch.long)
        sets = torch.zeros(len(chosen), self.n, dtype=torch.bool)
        sets = sets.scatter(1, chosen, True) if self.size else sets
        return sets[self.rank(sets) == self.size].double()

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over bases of exp of the sum of their elements' utilities.

        Uniform and partition: elementary symmetric polynomials. Graphic: the matrix-tree theorem. Else by enumeration.

        Raises:
            NotImplementedError: too many bases to enumerate.
        """
        if self._known is not None:
            return self._known.log_partition(u)
        if self.log_partition_refusal:
            raise NotImplementedError(f"{self.log_partition_refusal}.")
        sums = u.double() @ self._bases.to(u.device).T  # differences of large sums: float32 leaves four digits
        return sums.logsumexp(-1).to(u.dtype)

    @computed_once
    def _bases(self) -> torch.Tensor:
        return self.vertices()

    def _all_ranks(self) -> np.ndarray:
        return self.rank(torch.as_tensor(_all_sets(self.n))).cpu().numpy()

    def _check_axioms(self) -> None:
        """r(0) = 0, steps of 0 or 1, and r(S + e) + r(S + f) >= r(S + e + f) + r(S): these imply all others."""
        empty = int(self.rank(torch.zeros(self.n, dtype=torch.bool)))
        if empty:
            raise ValueError(f"rank is not that of a matroid: the empty set has rank {empty}, not 0.")
        base, e, f = (torch.as_tensor(a) for a in _probes(self.n))
        columns = torch.arange(self.n)
        one, other = base | (columns == e[:, None]), base | (columns == f[:, None])
        low, first, second, high = (self._lookup(s) for s in (base, one, other, one | other))
        step = first - low
        self._refuse((step < 0) | (step > 1), "must rise by 0 or 1 with one more element", (base, low), (one, first))
        self._refuse(
            first + second < high + low,
            "must be submodular, r(A) + r(B) >= r(A + B) + r(A & B)",
            (one, first),
            (other, second),
        )

    def _lookup(self, sets: torch.Tensor) -> torch.Tensor:
        if self._table is None:
            return self.rank(sets)
        return torch.as_tensor(self._table)[(sets.long() << torch.arange(self.n)).sum(1)]

    def _refuse(self, wrong: torch.Tensor, rule: str, *pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
        found = torch.nonzero(wrong).flatten()
        if found.numel():
            i = int(found[0])
            sets = " and ".join(f"{torch.nonzero(s[i]).flatten().tolist()} has rank {int(r[i])}" for s, r in pairs)
            raise ValueError(f"rank is not that of a matroid: it {rule}, but {sets}.")

    def __repr__(self) -> str:
        return f"MatroidBases.{self._known.name}" if self._known else f"MatroidBases(n={self.n}, size={self.size})"


def _all_sets(n: int) -> np.ndarray:
    """``(2^n, n)``, bool; row number and set are the same bits."""
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)


def _probes(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sets S ``(count, n)`` and two elements e, f of each to add: all of them if n is small."""
    if n <= _EXHAUSTIVE:
        sets = _all_sets(n)
        e, f = np.array(list(itertools.combinations_with_replacement(range(n), 2))).T
        return np.repeat(sets, len(e), axis=0), np.tile(e, len(sets)), np.tile(f, len(sets))
    rng = np.random.default_rng(0)
    sets = rng.random((_PROBES, n)) < rng.random((_PROBES, 1))
    return sets, rng.integers(n, size=_PROBES), rng.integers(n, size=_PROBES)


def _rank_constraints(x: Any, ranks: np.ndarray) -> list[Any]:
    """x >= 0, x(C) = r(C) for the components C, x(F) <= r(F) for the other inseparable flats F."""
    n = int(math.log2(len(ranks)))
    sets = _all_sets(n)
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


def _partition(groups: torch.Tensor, capacities: torch.Tensor, name: str) -> tuple[RankOracle, _Known]:
    member = groups == torch.arange(len(capacities))[:, None]
    limits = torch.minimum(capacities, member.sum(1))
    places = [torch.nonzero(m).flatten() for m in member]

    def rank(sets: torch.Tensor) -> torch.Tensor:
        counts = sets.double() @ member.T.to(sets.device, torch.float64)
        return torch.minimum(counts, limits.to(sets.device)).sum(-1).round().long()

    def log_partition(u: torch.Tensor) -> torch.Tensor:
        pairs = zip(places, limits.tolist(), strict=True)
        return torch.stack([log_elementary_symmetric(u[..., i.to(u.device)], k) for i, k in pairs if len(i)]).sum(0)

    def hull(x: Any) -> list[Any]:
        return [x >= 0, x <= 1, member.double().numpy() @ x == limits.numpy()]

    return rank, _Known(name, log_partition, hull)


class _Forest:
    """Ranks and the log-partition of a graph's spanning forests."""

    def __init__(self, edge_index: torch.Tensor, vertices: int):
        self._edges, self._vertices = edge_index, vertices
        self._trees = [self._tree(label) for label in self._labels(torch.ones(edge_index.shape[1]) > 0).unique()]

    def rank(self, sets: torch.Tensor) -> torch.Tensor:
        """Number of vertices less that of components."""
        labels = self._labels(sets)
        roots = labels == torch.arange(self._vertices, device=sets.device)
        return self._vertices - roots.sum(-1)

    def _labels(self, sets: torch.Tensor) -> torch.Tensor:
        """The smallest vertex of the component that each vertex ``(*batch, vertices)`` is in."""
        tails, heads = self._edges.to(sets.device)
        labels = torch.arange(self._vertices, device=sets.device).expand(*sets.shape[:-1], -1)
        ends = torch.cat([tails, heads]).expand(*sets.shape[:-1], -1)
        while True:
            a, b = labels[..., tails], labels[..., heads]
            low = torch.where(sets, torch.minimum(a, b), self._vertices)
            new = labels.scatter_reduce(-1, ends, torch.cat([low, low], -1), "amin")
            new = new.gather(-1, new)  # a label's own label: long paths halve
            if torch.equal(new, labels):
                return labels
            labels = new

    def _tree(self, label: torch.Tensor) -> tuple[SpanningTree, torch.Tensor] | None:
        """Spanning trees of one component, and the parallel edges ``(edges, most parallels)`` that make up each of its
        edges, padded by -1; None for a single vertex."""
        inside = self._labels(torch.ones(self._edges.shape[1]) > 0) == label
        number = inside.long().cumsum(0) - 1
        bundles: dict[tuple[int, int], list[int]] = {}
        for e, (i, j) in enumerate(self._edges.T.tolist()):
            if inside[i] and i != j:
                bundles.setdefault((int(number[min(i, j)]), int(number[max(i, j)])), []).append(e)
        if not bundles:
            return None
        most = max(len(b) for b in bundles.values())
        padded = torch.tensor([b + [-1] * (most - len(b)) for b in bundles.values()])
        return SpanningTree(torch.tensor(list(bundles)).T), padded

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """Sum over components; parallel edges count as one, with the log-sum-exp of their utilities."""
        wide = u.double()  # what parallel edges are worth together has more digits than float32
        total = (wide * 0).sum(-1)
        for tree, parallels in (t for t in self._trees if t is not None):
            members = parallels.to(u.device)
            merged = torch.where(members >= 0, wide[..., members], -torch.inf).logsumexp(-1)
            total = total + tree.log_partition(merged)
        return total.to(u.dtype)
