"""Projective dependency trees: arborescences over words in a row in which every subtree is a run of words.

An edge i -> j is projective if i is an ancestor of all words between i and j; edges drawn above the words then do not
cross. Eisner (1996, "Three new probabilistic models for dependency parsing", section 4) derives each such tree in one
way from spans i..j whose head is at an end: complete ones (``right``: head i; ``left``: head j, with all their
dependents in the span) and incomplete ones, of an edge between the ends (``rightwards``, ``leftwards``), all of O(n^2),
by O(n^3) ways to split them. Everything here is a recursion over this hypergraph (``kernels/hypergraph_sums.py``).

Hull: unit flow through it (``kernels/hypergraph_hull.py``), integral by reference subsets: cut each word in a left and a
right half. A ``right`` span i..j has the halves from the right one of i to the right one of j, a ``left`` one those from
the left one of i to the left one of j, an incomplete one those from the right one of i to the left one of j; each is
the disjoint union of those of its parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sst_cvx as sst
from polytopes.kernels.box import box_violation
from polytopes.kernels.hypergraph_hull import unit_flow
from polytopes.kernels.hypergraph_order import NONE
from polytopes.kernels.hypergraph_sums import Hypergraph
from polytopes.kernels.log_weights import widened
from polytopes.kernels.tables import Table
from sst_cvx.arguments import check_size, check_vertex_count
from sst_cvx.once import computed_once, constants, later

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class ProjectiveTree(sst.Structure, final=True):
    """Projective dependency trees of n - 1 words and a root before them; event shape ``(edges,)``.

    Args:
        n: number of vertices, at least 2: the root is vertex 0, the words are 1, ..., n - 1.
        single_root: exactly one edge leaves the root.

    Attributes:
        edge_index: ``(2, edges)``, tails (heads, as linguists call them) first, in the order of the event: i -> j in
            the order of (i, j), none into the root, as in ``Arborescence(n)``.

    Raises:
        TypeError, ValueError: n is not an integer of at least 2.
    """

    known_binary = True
    known_bounded = True
    argmax_on_device = True
    prefers_active_set = True

    def __init__(self, n: int, single_root: bool = False):
        self.n, self.single_root = check_size("n", n, 2), bool(single_root)
        pairs = [(i, j) for i, j in itertools.permutations(range(n), 2) if j]
        self.edge_index = torch.tensor(pairs).T.contiguous()
        self._ends = Table(self.edge_index)
        super().__init__(event_shape=(len(pairs),))

    @computed_once
    def _graph(self) -> Hypergraph:
        place = np.full((self.n, self.n), NONE)
        tails, heads = self.edge_index.numpy()
        place[tails, heads] = np.arange(len(tails))
        return Hypergraph(*_arcs(place, self.single_root), items=len(tails))

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        x = cp.Variable(self.event_size)
        return x, unit_flow(self._graph.arcs, x)

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """A projective tree of largest weight, over the whole batch at once, on the device of ``u``."""
        return self._graph.best(u)

    @constants()
    def vertices(self) -> torch.Tensor:
        check_vertex_count(self, self._graph.count())
        return self._graph.derivations()

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over trees of exp of the sum of their edges' utilities; differentiable any number of times."""
        return self._graph.log_sum(u)

    @widened
    def marginals(self, u: torch.Tensor) -> torch.Tensor:
        """Gradient of the log-partition, of the shape of ``u``; differentiable."""
        return self._graph.marginals(u)

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A tree drawn with probability proportional to exp <u, x>, exact: same shape, dtype, device as ``u``."""
        return self._graph.sample(u, generator)

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        """What can be seen without the hull: entries in [0, 1], and how many edges enter each word (and leave the
        root)."""
        tails, heads = self._ends.on(x.device)
        into = x.new_zeros(len(x), self.n).index_add(1, heads, x)
        outside = torch.maximum(box_violation(x, self.n - 1, self.n - 1), (into[:, 1:] - 1).abs().amax(1))
        if not self.single_root:
            return outside
        return torch.maximum(outside, (x[:, : self.n - 1].sum(1) - 1).abs())

    def length_mask(self, lengths: torch.Tensor) -> torch.Tensor:
        """Mask of sentences padded to n vertices: ``(*batch,)`` integers to ``(*batch, edges)`` bool.

        True for edges between vertices before the length, which counts the root; that is always there.
        """
        present = sst.length_mask(lengths, self.n)
        present[..., 0] = True
        return present[..., self.edge_index].all(-2)

    def fillers(self, allowed: torch.Tensor) -> torch.Tensor:
        """An edge to every word that a mask leaves no edge: it is not in the sentence, and the tree is over the others.

        From the word (or root) before it: a leaf beside its head is in the way of no edge. Words before all others
        must not hang from a root with a single edge, and do so from the word after them.
        """
        tails, heads = self._ends.on(allowed.device)
        flat = allowed.reshape(-1, self.event_size).int()
        touched = torch.zeros(len(flat), self.n, dtype=torch.int, device=flat.device)
        present = touched.index_add(1, tails, flat).index_add(1, heads, flat)[:, 1:] > 0
        leading = (present.cumsum(1) == 0) & present.any(1, keepdim=True)
        late = torch.nn.functional.pad(leading if self.single_root else torch.zeros_like(leading), (1, 0))
        absent = torch.nn.functional.pad(~present, (1, 0))
        hangs = torch.where(late.index_select(1, heads), tails == heads + 1, tails == heads - 1)
        return (hangs & absent.index_select(1, heads)).reshape(allowed.shape)

    def _key(self) -> Hashable:
        return self.n, self.single_root

    def __repr__(self) -> str:
        return f"ProjectiveTree(n={self.n}{', single_root=True' if self.single_root else ''})"


@sst.fast_path(ProjectiveTree, sst.ExponentialFamilyEntropy)
def exponential_family(
    structure: ProjectiveTree, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor
) -> torch.Tensor:
    """By the outside recursion, without autograd inside, which programs that are exported do not take."""
    return structure.marginals(u)


def _arcs(place: np.ndarray, single_root: bool) -> tuple[np.ndarray, ...]:
    """Heads, tails and items of Eisner's hypergraph, for edges at ``place[tail, head]``. Spans of one word are derived
    from nothing, and left out.

    For a single root, the words have spans among themselves, and the root's edge to k joins a ``left`` span 1..k and a
    ``right`` one from k to the end.
    """
    n = len(place)
    (between, rightwards, leftwards, right, left), root = _numbers(n, single_root)
    i, k, j = np.indices((n, n, n), dtype=np.int32).reshape(3, -1)
    inside = (i <= k) & (k < j) & (i >= int(single_root))
    i, k, j = i[inside], k[inside], j[inside]
    none, a, b = np.full(len(i), NONE), *np.triu_indices(n, 1)
    within = a >= int(single_root)
    a, b = a[within], b[within]
    single = np.full(len(a), NONE)
    parts = [
        (between[i, j], right[i, k], left[k + 1, j], none),
        (rightwards[a, b], between[a, b], single, place[a, b]),
        (leftwards[a, b], between[a, b], single, place[b, a]),
        (right[i, j], rightwards[i, k + 1], right[k + 1, j], none),
        (left[i, j], left[i, k], leftwards[k, j], none),
    ]
    if single_root:
        words = np.arange(1, n)
        parts.append((np.full(n - 1, root), left[1, words], right[words, n - 1], place[0, words]))
    heads, first, second, item = (np.concatenate(group) for group in zip(*parts, strict=True))
    used = heads != NONE  # no edges into the root
    return heads[used], first[used], second[used], item[used]


def _numbers(n: int, single_root: bool) -> tuple[np.ndarray, int]:
    """Vertices of spans i..j of each kind, ``(5, n, n)``, by their width; and the next number."""
    i, j = np.indices((n, n))
    words = (j > i) & (i >= 1)
    from_root = (j > i) & (i == 0) & (not single_root)
    there = np.stack([words | from_root, words | from_root, words, words | from_root, words])
    kind, i, j = np.nonzero(there)
    order = np.lexsort((i, kind, j - i))
    number = np.full((5, n, n), NONE)
    number[kind[order], i[order], j[order]] = np.arange(len(order))
    return number, len(order)
