"""Bases of a matroid: X = { indicators of the independent sets of largest size }, for any matroid with a rank oracle.

Hull (Edmonds 1971): x >= 0, x(S) <= r(S) for all sets S, x(E) = r(E). The sets that count are the inseparable flats:
those that no element can join without raising the rank, and that are no sum of two others. Argmax: the greedy
algorithm. The Euclidean soft argmax goes by the active-set path, with the greedy algorithm as its oracle.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sst_cvx as sst
from polytopes.kernels.flats import all_sets, rank_constraints
from polytopes.kernels.log_weights import widened
from polytopes.kernels.matroids import Family, Graphic, Partition
from polytopes.kernels.tables import Table
from sst_cvx.arguments import check_edge_index, check_size, check_vertex_count
from sst_cvx.once import computed_once, constants, later

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")

#: Sets ``(*batch, n)``, bool, to their ranks ``(*batch,)``, integer.
RankOracle = Callable[[torch.Tensor], torch.Tensor]

_EXHAUSTIVE = 12  # elements up to which all 2^n sets are looked at
_ENUMERATED = 20_000  # sets of r elements up to which the log-partition is a sum over bases
_PROBES = 4000  # random sets on which the axioms are tested beyond


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
    known_bounded = True
    prefers_active_set = True

    @property
    def argmax_on_device(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Not by an oracle of the user's, which may ask the host anything."""
        return self._family is not None

    def __init__(self, n: int, rank: RankOracle, *, _family: Family | None = None):
        self.n = check_size("n", n, 1)
        if not callable(rank):
            raise TypeError(f"rank must be a function of sets (*batch, {n}), got {type(rank).__name__}.")
        self._oracle, self._family = rank, _family
        self.size = int(self.rank(torch.ones(n, dtype=torch.bool)))
        self._table = self._all_ranks() if n <= _EXHAUSTIVE else None
        self._check_axioms()
        super().__init__(event_shape=(self.n,))
        if _family is None and math.comb(n, self.size) > _ENUMERATED:
            self.log_partition_refusal = (
                f"{self!r} is given by a rank oracle and may have {math.comb(n, self.size)} bases, too many to sum "
                f"over (limit {_ENUMERATED}); uniform, partition and graphic matroids have a log-partition at any size"
            )

    def declare(self) -> tuple[cp.Variable, list[Any]] | None:
        if self._family is not None and self._family.has_hull:
            x = cp.Variable(self.n)
            return x, self._family.hull(x) or []
        if self._table is None:
            return None
        x = cp.Variable(self.n)
        return x, rank_constraints(x, self._table)

    @classmethod
    @constants()
    def uniform(cls, n: int, k: int) -> MatroidBases:
        """All sets of k elements (as ``KSubset``)."""
        n = check_size("n", n, 1)
        k = check_size("k", k, 0, n)
        groups = torch.zeros(n, dtype=torch.long)
        family = Partition(groups, [k], f"uniform({n}, {k})")
        return cls(n, family.rank, _family=family)

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
        family = Partition(groups, limits, f"partition({len(groups)} elements, capacities={limits})")
        return cls(len(groups), family.rank, _family=family)

    @classmethod
    @constants()
    def graphic(cls, edge_index: torch.Tensor) -> MatroidBases:
        """Spanning forests of a graph ``(2, edges)``, which may have parallel edges, loops and several components.

        A spanning tree of every component. For connected graphs ``SpanningTree`` has a hull at any size.
        """
        edge_index, vertices = check_edge_index(edge_index)
        family = Graphic(edge_index, vertices)
        return cls(edge_index.shape[1], family.rank, _family=family)

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
            sets = all_sets(self.n)
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
        if self._family is not None:
            return self._family.log_partition(u)
        return self._sums(u).logsumexp(-1).to(u.dtype)

    @widened
    def marginals(self, u: torch.Tensor) -> torch.Tensor:
        """Gradient of the log-partition, of the shape of ``u``; differentiable."""
        if self._family is not None:
            return self._family.marginals(u)
        return (self._sums(u).softmax(-1) @ self._bases.on(u.device)).to(u.dtype)

    def _sums(self, u: torch.Tensor) -> torch.Tensor:
        """Of the elements' utilities, for every basis; in float64, as differences of large sums count."""
        if self.log_partition_refusal:
            raise NotImplementedError(f"{self.log_partition_refusal}.")
        return u.double() @ self._bases.on(u.device).T

    def prepare(self) -> None:
        super().prepare()
        if self._family is None and self.has_log_partition():
            _ = self._bases

    @computed_once
    def _bases(self) -> Table:
        return Table(self.vertices())

    def _all_ranks(self) -> np.ndarray:
        return self.rank(torch.as_tensor(all_sets(self.n))).cpu().numpy()

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

    def _key(self) -> Hashable:
        return id(self) if self._family is None else (type(self._family), self._family.key)

    def __repr__(self) -> str:
        return f"MatroidBases.{self._family.name}" if self._family else f"MatroidBases(n={self.n}, size={self.size})"


@sst.fast_path(MatroidBases, sst.ExponentialFamilyEntropy)
def exponential_family(
    structure: MatroidBases, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor
) -> torch.Tensor:
    return structure.marginals(u)


def _probes(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sets S ``(count, n)`` and two elements e, f of each to add: all of them if n is small."""
    if n <= _EXHAUSTIVE:
        sets = all_sets(n)
        e, f = np.array(list(itertools.combinations_with_replacement(range(n), 2))).T
        return np.repeat(sets, len(e), axis=0), np.tile(e, len(sets)), np.tile(f, len(sets))
    rng = np.random.default_rng(0)
    sets = rng.random((_PROBES, n)) < rng.random((_PROBES, 1))
    return sets, rng.integers(n, size=_PROBES), rng.integers(n, size=_PROBES)
