"""Binary constituency trees: n leaves in a row, joined two neighbouring spans at a time; CKY's dynamic program.

A tree is the set of its 2 n - 1 spans, each with a label: every leaf i..i, the whole 0..n-1, and for every span i..j of
more than one leaf a split k with spans i..k and k+1..j. Its score is a sum over labelled spans (Stern, Andreas, Klein,
"A minimal span-based neural constituency parser", 2017), so that the recursion over spans and splits (Cocke; Younger,
1967; Kasami) takes O(n^3 + n^2 labels); it is one over a hypergraph (``kernels/hypergraph_sums.py``).

Hull: unit flow through it (``kernels/hypergraph_hull.py``), integral by reference subsets: a span's are its leaves, of
which those of its two parts are the disjoint union.
"""

from __future__ import annotations

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
from sst_cvx.arguments import check_size, check_vertex_count
from sst_cvx.once import computed_once, constants, later

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class BinaryTree(sst.Structure, final=True):
    """Binary trees over n leaves whose spans, leaves included, have labels; event shape ``(n, n, labels)``.

    x[i, j, c] = 1 if the span from leaf i to leaf j, inclusive, i <= j, is in the tree with label c. Entries with
    i > j are 0 always, and their utilities do not count. Utilities are potentials of torch-struct's ``TreeCRF``.

    Args:
        n: number of leaves, at least 1.
        labels: number of labels, at least 1.

    Raises:
        TypeError, ValueError: not integers, or less than 1.
    """

    known_binary = True
    known_bounded = True
    argmax_on_device = True
    prefers_active_set = True

    def __init__(self, n: int, labels: int = 1):
        self.n, self.labels = check_size("n", n, 1), check_size("labels", labels, 1)
        super().__init__(event_shape=(self.n, self.n, self.labels))

    @computed_once
    def _graph(self) -> Hypergraph:
        return Hypergraph(*_arcs(self.n, self.labels), items=self.event_size)

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        x = cp.Variable(self.event_shape)
        return x, unit_flow(self._graph.arcs, cp.vec(x, order="C"))

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """A tree of largest weight, over the whole batch at once, on the device of ``u``."""
        return self._graph.best(u.flatten(-3)).reshape(u.shape)

    @constants()
    def vertices(self) -> torch.Tensor:
        check_vertex_count(self, self._graph.count())
        return self._graph.derivations().reshape(-1, *self.event_shape)

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over trees of exp of the sum of their spans' utilities; differentiable any number of times."""
        return self._graph.log_sum(u.flatten(-3))

    @widened
    def marginals(self, u: torch.Tensor) -> torch.Tensor:
        """Gradient of the log-partition, of the shape of ``u``; differentiable."""
        return self._graph.marginals(u.flatten(-3)).reshape(u.shape)

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A tree drawn with probability proportional to exp <u, x>, exact: same shape, dtype, device as ``u``."""
        return self._graph.sample(u.flatten(-3), generator).reshape(u.shape)

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        """What can be seen without the hull: entries in [0, 1], their sum, that of each leaf's and of the whole's, and
        those that are no spans."""
        spans = x.reshape(-1, self.n, self.n, self.labels).sum(-1)
        outside = box_violation(x, 2 * self.n - 1, 2 * self.n - 1)
        sure = torch.cat([spans.diagonal(dim1=1, dim2=2), spans[:, 0, -1:]], 1)
        outside = torch.maximum(outside, (sure - 1).abs().amax(1))
        return torch.maximum(outside, spans.tril(-1).abs().amax((1, 2)))

    def length_mask(self, lengths: torch.Tensor) -> torch.Tensor:
        """Mask of sentences padded to n leaves: ``(*batch,)`` integers to ``(*batch, n, n, labels)`` bool.

        True for spans of leaves before the length.
        """
        present = sst.length_mask(lengths, self.n)
        spans = (present[..., :, None] & present[..., None, :]).triu()
        return spans[..., None].repeat_interleave(self.labels, -1)

    def fillers(self, allowed: torch.Tensor) -> torch.Tensor:
        """What joins leaves before the first, or after the last, that begins or ends an allowed span: they are not in
        the sentence, and the tree is over the others.

        With these as first..last: their own spans, first..j for every later j, and i..n-1 for every earlier i, each
        with the first label; there is one way to join them.
        """
        n, leaf = self.n, torch.arange(self.n, device=allowed.device)
        flat = allowed.reshape(-1, n, n, self.labels)
        spans = (flat.any(-1) if self.labels > 1 else flat[..., 0]).triu()
        first = spans.any(2).byte().argmax(1)[:, None, None]
        last = torch.where(spans.any(1), leaf, -1).amax(1)[:, None, None]  # none but 0.. where nothing is allowed
        i, j = leaf[:, None], leaf
        hung = ((i < first) | (i > last)) & (i == j)
        hung |= (i == first) & (j > last)
        hung |= (i < first) & (j == n - 1)
        return torch.nn.functional.pad(hung[..., None], (0, self.labels - 1)).reshape(allowed.shape)

    def _key(self) -> Hashable:
        return self.n, self.labels

    def __repr__(self) -> str:
        return f"BinaryTree(n={self.n}, labels={self.labels})"


@sst.fast_path(BinaryTree, sst.ExponentialFamilyEntropy)
def exponential_family(
    structure: BinaryTree, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor
) -> torch.Tensor:
    """By the outside recursion, without autograd inside, which programs that are exported do not take."""
    return structure.marginals(u)


def _arcs(n: int, labels: int) -> tuple[np.ndarray, ...]:
    """Heads, tails and items: two vertices a span, by its width, of which the first is derived by its splits (of a
    leaf: from nothing, and left out), the second from the first by a label."""
    i, j = np.triu_indices(n)
    by_width = np.lexsort((i, j - i))
    i, j = i[by_width], j[by_width]
    split, labelled = np.full((n, n), NONE), np.full((n, n), NONE)
    place = np.arange(len(i))
    labelled[i, j] = np.where(i == j, place, 2 * place - n + 1)
    split[i, j] = np.where(i == j, NONE, 2 * place - n)
    c = np.arange(labels)
    item = (i[:, None] * n + j[:, None]) * labels + c
    parts = [
        (labelled[i, j].repeat(labels), split[i, j].repeat(labels), np.full(item.size, NONE), item.flatten()),
    ]
    a, k, b = np.indices((n, n, n), dtype=np.int32).reshape(3, -1)
    inside = (a <= k) & (k < b)
    a, k, b = a[inside], k[inside], b[inside]
    parts.append((split[a, b], labelled[a, k], labelled[k + 1, b], np.full(len(a), NONE)))
    heads, first, second, items = (np.concatenate(group) for group in zip(*parts, strict=True))
    return heads, first, second, items
