"""Linear algebra of one Newton step for large extended formulations: batched sparse elimination, planned once.

With the auxiliary columns z and the slacks eliminated (each by itself), the Newton system is

    [ X   A' ] [ dx ]
    [ A  -S  ] [ dy ],    X = diag(1 / d_x),  A = M_x,  S = M_z diag(d_z) M_z' + floor,

over event columns x and rows. S couples only rows that share an auxiliary variable, so rows are eliminated next: those
with few neighbours one by one, in sets of independent ones at once (minimum degree); what is left falls apart into
connected components, dense blocks that are factorised together. A dense system in x remains, and rows over x alone
come last. For Martin's trees on n vertices this takes O(n^4) operations, where the Schur complement takes O(n^9).

Every step is one tensor operation on all elements of the batch, which is the last dimension here.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components

from sst_cvx.paths.interior_point.standard_form import StandardForm

_FLOOR = 1e-10  # under S of an active set, over t
_FLOOR_INTERIOR, _CAP = 1e-11, 1e3
_CROSSOVER = 60  # rows from which sparse elimination is faster than the dense Schur complement, with auxiliary columns
_DEGREE = 6  # rows with at most so many neighbours are eliminated one by one
_FEWEST = 4  # ... in sets of at least so many


@dataclass
class Level:
    """Independent pivots: their slots; (pivot, neighbour) pairs; and updates target -= left * right / pivot."""

    pivots: torch.Tensor  # nodes
    diagonal: torch.Tensor  # slots
    pair_pivot: torch.Tensor
    pair_node: torch.Tensor
    pair_slot: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    owner: torch.Tensor
    target: torch.Tensor


class Plan:
    """What to eliminate when, for one presolved hull on one device. Nodes: event columns, then rows."""

    def __init__(self, form: StandardForm, device: torch.device):
        self.curved, self.rows, self.columns = form.curved, form.right.size, form.lower.size
        self._slots: dict[tuple[int, int], int] = {}
        matrix = form.matrix
        event, others = matrix[:, : self.curved], matrix[:, self.curved :]
        self.outer = np.flatnonzero(np.diff(others.indptr) == 0)  # rows over event columns alone
        self._event_rows(event)
        products = self._products(others)
        neighbours = self._graph()
        self.levels = self._levels(neighbours, device)
        self._blocks(neighbours)

        def tensor(a: Any) -> torch.Tensor:
            return torch.as_tensor(np.asarray(a, dtype=int), device=device)

        self.size = len(self._slots) + 2  # and one slot of zeros, one of ones
        self.constant_slots = tensor(self._constant_slots)
        self.constants = torch.as_tensor(self._constants, device=device)[:, None]
        self.product_slots = tensor([] if products is None else products[0])
        self.products = None if products is None else _sparse(products[1], device)
        self.x_diagonal = tensor([self._slots[i, i] for i in range(self.curved)])
        self.row_diagonal = tensor([self._slots[self.curved + i, self.curved + i] for i in range(self.rows)])
        self.block_rows = tensor(self._block_nodes)  # (blocks, size); padding is the last node + 1
        self.block_slots, self.coupling_slots = tensor(self._block_slots), tensor(self._coupling_slots)
        self.x_slots, self.outer_rows = tensor(self._x_slots), tensor(self.outer)
        self.outer_matrix = torch.as_tensor(event[self.outer].toarray(), device=device)
        self.others = _sparse(others, device)

    def _slot(self, i: int, j: int) -> int:
        return self._slots.setdefault((min(i, j), max(i, j)), len(self._slots))

    def _event_rows(self, event: sp.csr_array) -> None:
        coordinates = event.tocoo()
        inside = ~np.isin(coordinates.row, self.outer)
        pairs = zip(coordinates.col[inside], self.curved + coordinates.row[inside], strict=True)
        self._constant_slots = [self._slot(int(i), int(j)) for i, j in pairs]
        self._constants = coordinates.data[inside]
        for node in range(self.curved + self.rows):
            self._slot(node, node)

    def _products(self, others: sp.csr_array) -> tuple[list[int], sp.csr_array] | None:
        """Slots of S and the matrix that gives them from d of the other columns."""
        by_column = sp.csc_array(others)
        entries: dict[int, list[tuple[int, float]]] = {}
        for column in range(self.columns - self.curved):
            part = slice(by_column.indptr[column], by_column.indptr[column + 1])
            rows, values = by_column.indices[part], by_column.data[part]
            for a in range(len(rows)):
                for b in range(a, len(rows)):
                    slot = self._slot(self.curved + int(rows[a]), self.curved + int(rows[b]))
                    entries.setdefault(slot, []).append((column, values[a] * values[b]))
        if not entries:
            return None
        slots = list(entries)
        triples = [(i, column, value) for i, slot in enumerate(slots) for column, value in entries[slot]]
        i, j, v = zip(*triples, strict=True)
        return slots, sp.csr_array((v, (i, j)), shape=(len(slots), self.columns - self.curved))

    def _graph(self) -> list[set[int]]:
        neighbours: list[set[int]] = [set() for _ in range(self.curved + self.rows)]
        for i, j in self._slots:
            if i != j:
                neighbours[i].add(j)
                neighbours[j].add(i)
        return neighbours

    def _levels(self, neighbours: list[set[int]], device: torch.device) -> list[Level]:
        left = {self.curved + i for i in range(self.rows)} - {self.curved + int(i) for i in self.outer}
        levels = []
        while left:
            least = min(len(neighbours[i]) for i in left)
            chosen: list[int] = []
            blocked: set[int] = set()
            for i in sorted(left, key=lambda i: (len(neighbours[i]), i)):
                if len(neighbours[i]) > least + 1 or len(neighbours[i]) > _DEGREE:
                    break
                if i not in blocked:
                    chosen.append(i)
                    blocked |= neighbours[i]
            if len(chosen) < _FEWEST:
                break
            levels.append(self._eliminate(chosen, neighbours, device))
            left -= set(chosen)
        self._left = sorted(left)
        return levels

    def _eliminate(self, chosen: list[int], neighbours: list[set[int]], device: torch.device) -> Level:
        pairs, updates = [], []
        for number, pivot in enumerate(chosen):
            around = sorted(neighbours[pivot])
            pairs += [(number, node, self._slot(pivot, node)) for node in around]
            for a, first in enumerate(around):
                for second in around[a:]:
                    updates.append(
                        (self._slot(pivot, first), self._slot(pivot, second), number, self._slot(first, second))
                    )
                neighbours[first] |= set(around) - {first}
                neighbours[first].discard(pivot)
        diagonal = [self._slot(pivot, pivot) for pivot in chosen]
        columns = [torch.tensor(part, device=device) for part in (chosen, diagonal)]
        columns += list(torch.tensor(pairs, device=device).reshape(-1, 3).T.contiguous())
        columns += list(torch.tensor(updates, device=device).reshape(-1, 4).T.contiguous())
        return Level(*columns)

    def _blocks(self, neighbours: list[set[int]]) -> None:
        """Connected components of the rows that are left, padded to one size."""
        place = {node: k for k, node in enumerate(self._left)}
        edges = [(place[i], place[j]) for i in self._left for j in neighbours[i] if j in place]
        ones = np.ones(len(edges))
        i, j = np.array(edges, dtype=int).reshape(-1, 2).T
        graph = sp.csr_array((ones, (i, j)), shape=(len(place), len(place)))
        count, label = connected_components(graph, directed=False) if place else (0, np.zeros(0, int))
        size = int(np.bincount(label).max(initial=0)) if place else 0
        zero, one, nobody = -2, -1, self.curved + self.rows
        self._block_nodes = np.full((count, size), nobody)
        self._block_slots = np.full((count, size, size), zero)
        self._coupling_slots = np.full((count, size, self.curved), zero)
        for block in range(count):
            nodes = [self._left[k] for k in np.flatnonzero(label == block)]
            self._block_nodes[block, : len(nodes)] = nodes
            for a in range(size):
                self._block_slots[block, a, a] = one
            for a, first in enumerate(nodes):
                for b, second in enumerate(nodes):
                    self._block_slots[block, a, b] = self._slots.get((min(first, second), max(first, second)), zero)
                for x in range(self.curved):
                    self._coupling_slots[block, a, x] = self._slots.get((x, first), zero)
        self._x_slots = np.full((self.curved, self.curved), zero)
        for a in range(self.curved):
            for b in range(self.curved):
                self._x_slots[a, b] = self._slots.get((min(a, b), max(a, b)), zero)
        total = len(self._slots) + 2
        for array in (self._block_slots, self._coupling_slots, self._x_slots):
            array[array < 0] += total


def _sparse(matrix: Any, device: torch.device) -> torch.Tensor:
    matrix = sp.csr_array(matrix, dtype=np.float64)
    matrix.sum_duplicates()  # and sorts
    indptr, indices = (torch.tensor(a, dtype=torch.int64, device=device) for a in (matrix.indptr, matrix.indices))
    values = torch.tensor(matrix.data, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that these tensors are in beta
        return torch.sparse_csr_tensor(indptr, indices, values, matrix.shape, check_invariants=True)  # type: ignore


class SparseFactor:
    """The factorised system for d ``(batch, columns)`` and a floor ``(batch, 1)`` under S."""

    def __init__(self, rows: SparseRows, d: torch.Tensor, floor: torch.Tensor | float):
        plan = rows.plan
        self._rows, self._plan, self._d = rows, plan, d
        batch, curved = len(d), plan.curved
        values = d.new_zeros(plan.size, batch)
        values[-1] = -1.0
        values[plan.constant_slots] = plan.constants
        values[plan.x_diagonal] = d[:, :curved].T.reciprocal().clamp(max=1e100)
        if plan.products is not None:
            values[plan.product_slots] = -(plan.products @ d[:, curved:].T.contiguous())
        values[plan.row_diagonal] -= floor.T if isinstance(floor, torch.Tensor) else floor
        self._levels = []
        for level in plan.levels:
            inverse = values[level.diagonal].reciprocal()
            scaled = values[level.pair_slot] * inverse[level.pair_pivot]
            update = values[level.left] * values[level.right] * inverse[level.owner]
            values.index_add_(0, level.target, update, alpha=-1)
            self._levels.append((inverse, scaled))
        blocks, coupling = (
            values[slots].movedim(-1, 0).contiguous() for slots in (plan.block_slots, plan.coupling_slots)
        )
        matrix = values[plan.x_slots].movedim(-1, 0)
        if blocks.shape[1]:
            self._blocks = torch.linalg.cholesky_ex(-blocks)[0]
            self._coupling = coupling
            spread = torch.linalg.solve_triangular(self._blocks, coupling, upper=False).reshape(batch, -1, curved)
            matrix = matrix + spread.mT @ spread
        self._x = torch.linalg.cholesky_ex(matrix)[0]
        if plan.outer.size:
            self._spread = torch.cholesky_solve(plan.outer_matrix.T.expand(batch, -1, -1), self._x)
            matrix = plan.outer_matrix @ self._spread
            matrix.diagonal(dim1=1, dim2=2).add_(floor)
            self._outer = torch.linalg.cholesky_ex(matrix)[0]

    def solve(self, p: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """dw and dy for right sides p ``(batch, columns)`` and q ``(batch, rows)``."""
        plan, curved = self._plan, self._plan.curved
        d_other = self._d[:, curved:]
        rows = q.T - plan.others @ (d_other * p[:, curved:]).T.contiguous()
        nodes = torch.cat([p[:, :curved].T, rows, torch.zeros_like(rows[:1])])
        for level, (_, scaled) in zip(plan.levels, self._levels, strict=True):
            nodes.index_add_(0, level.pair_node, scaled * nodes[level.pivots][level.pair_pivot], alpha=-1)
        x = nodes[:curved].T
        if plan.block_rows.numel():
            right = nodes[plan.block_rows].movedim(-1, 0).contiguous()[..., None]
            solved = torch.cholesky_solve(right, self._blocks)
            x = x + (self._coupling.mT @ solved)[..., 0].sum(1)
        x = torch.cholesky_solve(x[..., None].contiguous(), self._x)
        if plan.outer.size:
            y = torch.cholesky_solve(plan.outer_matrix @ x - q[:, plan.outer_rows, None], self._outer)
            x = x - self._spread @ y
            nodes[plan.curved + plan.outer_rows] = y[..., 0].T
        nodes[:curved] = x[..., 0].T
        if plan.block_rows.numel():
            y = torch.cholesky_solve(self._coupling @ x[:, None] - right, self._blocks)
            nodes[plan.block_rows] = y[..., 0].movedim(0, -1)
        for level, (inverse, scaled) in zip(reversed(plan.levels), reversed(self._levels), strict=True):
            nodes[level.pivots] *= inverse
            nodes.index_add_(0, level.pivots[level.pair_pivot], scaled * nodes[level.pair_node], alpha=-1)
        dy = nodes[curved:-1].T.contiguous()
        # Not the x of the elimination: this one satisfies its equations for any dy, so refinement sees all errors.
        return self._d * self._rows.force(p, dy), dy


def prefers_sparse(form: StandardForm) -> bool:
    """Whether sparse elimination is the faster linear algebra for a hull: large extended formulations."""
    return form.auxiliary > 0 and form.right.size >= _CROSSOVER


class SparseRows:
    """M as sparse tensors on one device, with the interface of ``normal_equations.Rows``."""

    def __init__(self, form: StandardForm, device: torch.device):
        self.plan = Plan(form, device)
        self._matrix, self._transposed = _sparse(form.matrix, device), _sparse(form.matrix.T, device)
        self.equalities, self.slacks = form.equalities, form.slacks

    def times(self, w: torch.Tensor) -> torch.Tensor:
        """M w, ``(batch, rows)``."""
        return (self._matrix @ w.T.contiguous()).T.contiguous()

    def transposed(self, y: torch.Tensor) -> torch.Tensor:
        """M' y, ``(batch, columns)``."""
        return (self._transposed @ y.T.contiguous()).T.contiguous()

    def residual(self, right: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """right - M w, ``(batch, rows)``."""
        return right - self.times(w)

    def force(self, linear: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """linear - M' y, ``(batch, columns)``."""
        return linear - self.transposed(y)

    def factor(self, d: torch.Tensor) -> SparseFactor:
        """Factorise for d ``(batch, columns)``, all positive and finite.

        Without x, rows are almost dependent once bounds become active, and the elimination would break down: d is
        capped, which only dampens steps of auxiliary columns, and there is a floor, for refinement to take out.
        """
        curved = self.plan.curved
        return SparseFactor(self, torch.cat([d[:, :curved], d[:, curved:].clamp(max=_CAP)], 1), _FLOOR_INTERIOR)

    def factor_active(self, d: torch.Tensor, t: torch.Tensor) -> SparseFactor:
        """Factorise where d has zeros (fixed columns) and 1e20 (free slacks), regularised for temperatures t."""
        return SparseFactor(self, d, _FLOOR / t)
