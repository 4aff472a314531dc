"""k-subsets of a chain with their adjacent pairs: x_i says that item i is chosen, e_i = x_i x_{i+1} that both are.

Paper, section 4.1 ("correlated k-subsets"). A subset is a path through a trellis with one vertex for every position,
last bit and count of items so far; the hull is its unit flow, summed over the edges that use an item or a pair. Best
subset, sum over subsets and exact samples are the recursion of ``kernels/dag_sums.py``, in O(n k).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sst_cvx as sst
from polytopes.kernels.box import box_violation
from polytopes.kernels.chain_tree import ChainTree
from polytopes.kernels.dag_sums import PathGraph
from polytopes.kernels.log_weights import widened
from sst_cvx.arguments import check_size, check_vertex_count
from sst_cvx.autodiff import gradient
from sst_cvx.host import stops_early
from sst_cvx.once import constants, later

if TYPE_CHECKING:
    import cvxpy as cp
    import scipy.sparse as sp
else:
    cp = later("cvxpy")
    sp = later("scipy.sparse")


class CorrelatedKSubset(sst.Structure, final=True):
    """k of n items in a row, with indicators of adjacent pairs; event shape ``(2 n - 1,)``.

    Args:
        n: number of items, at least 1.
        k: size of the subset, 0 <= k <= n.
    """

    known_binary = True
    argmax_on_device = True
    prefers_active_set = True  # as fast at n = 5, 10 to 30 times faster from n = 20 on
    known_bounded = True  # the trellis of 350 items and k = 10 has 15,000 edges: canonicalised on demand

    def __init__(self, n: int, k: int):
        self.n, self.k = check_size("n", n, 1), check_size("k", k, 0, n)
        self._graph = PathGraph(*_trellis(self.n, self.k))
        super().__init__(event_shape=(2 * self.n - 1,))

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        n, (tails, heads, source, target) = self.n, _trellis(self.n, self.k)
        live = np.flatnonzero(self._graph.live)
        x, flow = cp.Variable(2 * n - 1), cp.Variable(len(live))
        balance = _signs(heads[live], target + 2) - _signs(tails[live], target + 2)
        supply = np.zeros(target + 2)
        supply[target], supply[source] = 1, -1
        on = np.unique([tails[live], heads[live]])
        uses = self._scores(torch.eye(2 * n - 1, dtype=torch.float64)).numpy()[:, live]
        return x, [flow >= 0, balance[on] @ flow == supply[on], x == sp.csr_array(uses) @ flow]

    def _scores(self, u: torch.Tensor) -> torch.Tensor:
        """Utilities of the trellis's edges: ``(*batch, 2 n - 1)`` to ``(*batch, edges)``, stored edges first.

        In float64: an item's and its pair's make one number.
        """
        flat = u.double().reshape(u.shape[:-1].numel(), 2 * self.n - 1).T
        item, pair = flat[: self.n], torch.nn.functional.pad(flat[self.n :], (0, 0, 1, 0))
        none = torch.zeros_like(item)
        by_bits = torch.stack([torch.stack([none, item], 1), torch.stack([none, item + pair], 1)], 1)
        body = by_bits[:, :, :, None].expand(-1, -1, -1, self.k + 1, -1).flatten(0, 3)
        return torch.nn.functional.pad(body, (0, 0, 0, 2)).T.reshape(*u.shape[:-1], len(body) + 2)

    def _tree(self, u: torch.Tensor, best: bool = False) -> ChainTree:
        """The same sums by halves, where the host must not be asked."""
        return ChainTree(u.reshape(u.shape[:-1].numel(), 2 * self.n - 1), self.k, best)

    def _event(self, path: torch.Tensor) -> torch.Tensor:
        """From a path's edges ``(*batch, edges)`` to its event."""
        by_bits = path[..., :-2].reshape(*path.shape[:-1], self.n, 2, 2, self.k + 1).sum(-1)
        return torch.cat([by_bits[..., 1].sum(-1), by_bits[..., 1:, 1, 1]], -1)

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """The best subset, over the whole batch at once, on the device of ``u``."""
        if not stops_early(u):
            return self._tree(u, best=True).best().reshape(u.shape).to(u.dtype)
        return self._event(self._graph.best(self._scores(u))).to(u.dtype)

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        """What can be seen without the trellis: k items, and pairs between max(0, sum - 1) and min of their items."""
        item, pair = x[..., : self.n], x[..., self.n :]
        worst = box_violation(x, self.k, self.k, items=self.n)
        if self.n == 1:
            return worst
        first, second = item[..., :-1], item[..., 1:]
        above, below = pair - torch.minimum(first, second), first + second - 1 - pair
        return torch.maximum(worst, torch.maximum(above, below).amax(-1))

    @constants()
    def vertices(self) -> torch.Tensor:
        check_vertex_count(self, math.comb(self.n, self.k))
        chosen = torch.tensor(list(itertools.combinations(range(self.n), self.k)), dtype=torch.long)
        items = torch.zeros(len(chosen), self.n, dtype=torch.float64)
        items = items.scatter(1, chosen, 1.0) if self.k else items
        return torch.cat([items, items[:, :-1] * items[:, 1:]], 1)

    def length_mask(self, lengths: torch.Tensor) -> torch.Tensor:
        """Mask of sequences padded to n items: ``(*batch,)`` integers to ``(*batch, 2 n - 1)`` bool."""
        items = sst.length_mask(lengths, self.n)
        return torch.cat([items, items[..., 1:]], -1)

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over subsets of exp <u, x>; differentiable any number of times."""
        if not stops_early(u):
            return self._tree(u).log_sum().reshape(u.shape[:-1]).to(u.dtype)
        return self._graph.log_sum(self._scores(u), u.dtype)

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A subset drawn with probability proportional to exp <u, x>, exact: same shape, dtype, device as ``u``."""
        if not stops_early(u):
            return self._tree(u).sample(generator).reshape(u.shape).to(u.dtype)
        return self._event(self._graph.sample(self._scores(u), generator)).to(u.dtype)

    def _key(self) -> Hashable:
        return self.n, self.k

    def __repr__(self) -> str:
        return f"CorrelatedKSubset(n={self.n}, k={self.k})"


@sst.fast_path(CorrelatedKSubset, sst.ExponentialFamilyEntropy)
def exponential_family(
    structure: CorrelatedKSubset, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor
) -> torch.Tensor:
    if stops_early(u):
        return gradient(structure.log_partition, u)
    return structure._tree(u).marginals().reshape(u.shape).to(u.dtype)


def _trellis(n: int, k: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Tails, heads, source and target; edges by (position, bit before, bit, count before), then two to the target.

    Edges whose count would exceed k lead to a vertex from which nothing goes on.
    """
    target = (n + 1) * 2 * (k + 1)
    position, before, bit, count = np.meshgrid(np.arange(n), [0, 1], [0, 1], np.arange(k + 1), indexing="ij")
    tails = (2 * position + before) * (k + 1) + count
    heads = np.where(count + bit <= k, (2 * (position + 1) + bit) * (k + 1) + np.minimum(count + bit, k), target + 1)
    ends = [(2 * n + bit) * (k + 1) + k for bit in (0, 1)]
    return np.append(tails.ravel(), ends), np.append(heads.ravel(), [target, target]), 0, target


def _signs(ends: np.ndarray, vertices: int) -> sp.csr_array:
    return sp.csr_array((np.ones(len(ends)), (ends, np.arange(len(ends)))), shape=(vertices, len(ends)))
