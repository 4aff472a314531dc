"""What sparse elimination of a Newton system does when, planned once for a hull.

With the auxiliary columns z and the slacks eliminated (each by itself), the Newton system is

    [ X   A' ] [ dx ]
    [ A  -S  ] [ dy ],    X = diag(1 / d_x),  A = M_x,  S = M_z diag(d_z) M_z' + floor,

over event columns x and rows. S couples only rows that share an auxiliary variable, so rows are eliminated next: those
with few neighbours one by one, in sets of independent ones at once (minimum degree); what is left falls apart into
connected components, dense blocks that are factorised together. A dense system in x remains, and rows over x alone
come last. For Martin's trees on n vertices this takes O(n^4) operations, where the Schur complement takes O(n^9).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.once import later
from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.matrix import sparse_tensor
from sst_cvx.paths.interior_point.standard_form import StandardForm

if TYPE_CHECKING:
    import scipy.sparse as sp
    import scipy.sparse.csgraph as csgraph
else:
    sp = later("scipy.sparse")
    csgraph = later("scipy.sparse.csgraph")

_ZERO, _ONE = -2, -1  # slots from the end: entries that the matrix does not have, and the diagonal of padding


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


class _Slots:
    """Numbers of the entries of a symmetric matrix that are not always zero, given as they are asked for."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __call__(self, i: int, j: int) -> int:
        return self._numbers.setdefault((min(i, j), max(i, j)), len(self._numbers))

    def of(self, i: int, j: int) -> int:
        """Of one that is there, else ``_ZERO``."""
        return self._numbers.get((min(i, j), max(i, j)), _ZERO)

    def neighbours(self, nodes: int) -> list[set[int]]:
        """Of each node, those with which it shares an entry."""
        around: list[set[int]] = [set() for _ in range(nodes)]
        for i, j in self._numbers:
            if i != j:
                around[i].add(j)
                around[j].add(i)
        return around


class Plan:
    """For one presolved hull on one device. Nodes: event columns, then rows.

    Attributes:
        events: number of event columns.
        size: number of slots, the last two for entries that are not there and for the diagonal of padding.
        constant_slots, constants: entries of A.
        product_slots, products: entries of S, and the matrix that gives them from d of the other columns.
        x_diagonal, row_diagonal: slots of the diagonal.
        levels: what is eliminated one by one.
        block_rows, block_slots, coupling_slots: nodes of the dense blocks ``(blocks, size)``, padded by the last node
            + 1; slots of their entries, and of those in the event's columns.
        x_slots: those of the dense system in x.
        outer, outer_rows, outer_matrix: rows over event columns alone.
        others: M without the event's columns.
    """

    def __init__(self, form: StandardForm, device: torch.device):
        def tensor(a: Any) -> torch.Tensor:
            return torch.as_tensor(np.asarray(a, dtype=int), device=device)

        self.events, rows = form.event_columns, form.rows
        matrix, slots = form.matrix, _Slots()
        event, others = matrix[:, : self.events], matrix[:, self.events :]
        self.outer = np.flatnonzero(np.diff(others.indptr) == 0)
        places, values = _entries(event, self.outer)
        self.constant_slots = tensor([slots(i, self.events + j) for i, j in places])
        self.constants = torch.as_tensor(values, device=device)[:, None]
        self.x_diagonal = tensor([slots(i, i) for i in range(self.events)])
        self.row_diagonal = tensor([slots(self.events + i, self.events + i) for i in range(rows)])
        products = _products(others, slots, self.events)
        self.product_slots = tensor([] if products is None else products[0])
        self.products = None if products is None else sparse_tensor(products[1], device)
        neighbours = slots.neighbours(self.events + rows)
        inner = set(range(self.events, self.events + rows)) - {self.events + int(i) for i in self.outer}
        self.levels = [Level(*map(tensor, level)) for level in _levels(inner, neighbours, slots)]
        nodes, block, coupling = _blocks(sorted(inner), neighbours, slots, self.events, self.events + rows)
        x = [[slots.of(i, j) for j in range(self.events)] for i in range(self.events)]
        self.size = len(slots) + 2
        self.block_rows = tensor(nodes)
        self.block_slots, self.coupling_slots, self.x_slots = (
            tensor(np.where(a < 0, a + self.size, a)) for a in (block, coupling, np.array(x, int))
        )
        self.outer_rows = tensor(self.outer)
        self.outer_matrix = torch.as_tensor(event[self.outer].toarray(), device=device)
        self.others = sparse_tensor(others, device)


def _entries(event: sp.csr_array, outer: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray]:
    """(column, row) of the entries of A in rows that are not over event columns alone, and their values."""
    entries = event.tocoo()
    inner = ~np.isin(entries.row, outer)
    return [(int(i), int(j)) for i, j in zip(entries.col[inner], entries.row[inner], strict=True)], entries.data[inner]


def _products(others: sp.csr_array, slots: _Slots, events: int) -> tuple[list[int], sp.csr_array] | None:
    """Slots of S and the matrix that gives them from d of the other columns."""
    by_column = sp.csc_array(others)
    columns = len(by_column.indptr) - 1
    entries: dict[int, list[tuple[int, float]]] = {}
    for column in range(columns):
        part = slice(by_column.indptr[column], by_column.indptr[column + 1])
        rows, values = by_column.indices[part], by_column.data[part]
        for a in range(len(rows)):
            for b in range(a, len(rows)):
                slot = slots(events + int(rows[a]), events + int(rows[b]))
                entries.setdefault(slot, []).append((column, values[a] * values[b]))
    if not entries:
        return None
    places = list(entries)
    triples = [(i, column, value) for i, slot in enumerate(places) for column, value in entries[slot]]
    i, j, v = zip(*triples, strict=True)
    return places, sp.csr_array((v, (i, j)), shape=(len(places), columns))


def _levels(left: set[int], neighbours: list[set[int]], slots: _Slots) -> list[list[Any]]:
    """The fields of each ``Level``; takes the pivots out of ``left``."""
    levels = []
    while left:
        least = min(len(neighbours[i]) for i in left)
        chosen: list[int] = []
        blocked: set[int] = set()
        for i in sorted(left, key=lambda i: (len(neighbours[i]), i)):
            if len(neighbours[i]) > least + 1 or len(neighbours[i]) > tolerances.DEGREE:
                break
            if i not in blocked:
                chosen.append(i)
                blocked |= neighbours[i]
        if len(chosen) < tolerances.FEWEST:
            break
        levels.append(_eliminate(chosen, neighbours, slots))
        left -= set(chosen)
    return levels


def _eliminate(chosen: list[int], neighbours: list[set[int]], slots: _Slots) -> list[Any]:
    pairs, updates = [], []
    for number, pivot in enumerate(chosen):
        around = sorted(neighbours[pivot])
        pairs += [(number, node, slots(pivot, node)) for node in around]
        for a, first in enumerate(around):
            for second in around[a:]:
                updates.append((slots(pivot, first), slots(pivot, second), number, slots(first, second)))
            neighbours[first] |= set(around) - {first}
            neighbours[first].discard(pivot)
    diagonal = [slots(pivot, pivot) for pivot in chosen]
    return [chosen, diagonal, *np.array(pairs, int).reshape(-1, 3).T, *np.array(updates, int).reshape(-1, 4).T]


def _blocks(
    left: list[int], neighbours: list[set[int]], slots: _Slots, events: int, nobody: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Connected components of the rows that are left, padded to one size: nodes, slots of their entries, and of those
    in the event's columns."""
    place = {node: k for k, node in enumerate(left)}
    edges = [(place[i], place[j]) for i in left for j in neighbours[i] if j in place]
    i, j = np.array(edges, dtype=int).reshape(-1, 2).T
    graph = sp.csr_array((np.ones(len(edges)), (i, j)), shape=(len(place), len(place)))
    count, label = csgraph.connected_components(graph, directed=False) if place else (0, np.zeros(0, int))
    size = int(np.bincount(label).max(initial=0)) if place else 0
    nodes = np.full((count, size), nobody)
    block, coupling = np.full((count, size, size), _ZERO), np.full((count, size, events), _ZERO)
    block[:, range(size), range(size)] = _ONE
    for number in range(count):
        members = [left[k] for k in np.flatnonzero(label == number)]
        nodes[number, : len(members)] = members
        for a, first in enumerate(members):
            block[number, a, : len(members)] = [slots.of(first, second) for second in members]
            coupling[number, a] = [slots.of(x, first) for x in range(events)]
    return nodes, block, coupling
