"""Rankings: X = { (w_p(1), ..., w_p(n)) : p a permutation }, conv(X) the permutahedron of w.

Paper, section 4.3 (sorting and ranking). Hull: x = P w with P doubly stochastic, here over the distinct values of w,
each taken as often as it occurs. Euclidean and categorical: isotonic regression (Blondel, Teboul, Berthet, Djolonga,
"Fast Differentiable Sorting and Ranking", 2020, propositions 3 and 4). Log-partition: a permanent.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sst_cvx as sst
from polytopes.kernels.isotonic import entropic_on_permutations, project_on_permutations
from polytopes.kernels.log_weights import widened
from polytopes.kernels.permanent import LARGEST_PERMANENT, log_matchings
from polytopes.kernels.tables import Table
from sst_cvx.arguments import check_finite, check_vertex_count
from sst_cvx.host import may_ask
from sst_cvx.once import constants, later

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class Permutahedron(sst.Structure, final=True):
    """All orders of n numbers; event shape ``(n,)``. The largest utility gets the largest weight.

    An entry is a position and 0 no absence, so there are no masks.

    Args:
        weights: ``(n,)`` finite numbers, n >= 1; equal ones are allowed. E.g. 0, ..., n - 1 for ranks.

    Raises:
        TypeError, ValueError: no vector of finite numbers.
    """

    known_bounded = True
    prefers_active_set = True

    def __init__(self, weights: torch.Tensor):
        if not isinstance(weights, torch.Tensor) or weights.is_complex() or weights.dtype == torch.bool:
            raise TypeError("weights must be a real tensor (n,).")
        if weights.dim() != 1 or not weights.numel():
            raise ValueError(f"weights must be (n,) with n >= 1, got shape {tuple(weights.shape)}.")
        check_finite(weights, "weights")
        self.weights = weights.detach().to("cpu", torch.float64).sort(descending=True).values
        self._values, counts = self.weights.unique(return_counts=True)
        self._counts: list[int] = counts.tolist()
        self._numbers: list[float] = self.weights.tolist()
        self._table = Table(self.weights)
        self._size, self._most = 1 + sum(map(abs, self._numbers)), np.cumsum(self._numbers)
        n = len(self.weights)
        super().__init__(event_shape=(n,))
        if n > LARGEST_PERMANENT:
            self.log_partition_refusal = (
                f"the log-partition of {self!r} is the logarithm of a permanent, out of reach beyond "
                f"n = {LARGEST_PERMANENT}: use Euclidean() instead"
            )

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        n, counts = len(self.weights), self._counts
        x, order = cp.Variable(n), cp.Variable((n, len(counts)))
        stochastic = [order >= 0, cp.sum(order, axis=0) == np.array(counts), cp.sum(order, axis=1) == 1]
        return x, [*stochastic, x == order @ self._values.numpy()]

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """The weights in the order of the utilities, by sorting; on the device of ``u``."""
        order = u.argsort(-1, descending=True)
        return torch.empty_like(u).scatter(-1, order, self._table.on(u.device).to(u).expand_as(u))

    @constants()
    def vertices(self) -> torch.Tensor:
        check_vertex_count(self, round(math.exp(math.lgamma(len(self.weights) + 1) - self._log_repeats())))
        return self._values[torch.tensor(list(_arrangements(self._counts)))]

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over different orders of exp <u, x>: a permanent of n <= 12.

        Raises:
            ValueError: n is larger.
        """
        if self.log_partition_refusal:
            raise ValueError(self.log_partition_refusal + ".")
        z, weights = u.double().sort(-1, descending=True).values, self._table.on(u.device)
        others = log_matchings(_losses(z, weights), every_row=True, every_column=True) - self._log_repeats()
        return ((z * weights).sum(-1) + others).to(u.dtype)

    def _log_repeats(self) -> float:
        """log of the number of permutations that give one order."""
        return sum(math.lgamma(count + 1) for count in self._counts)

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        """By majorisation: the k largest entries sum to no more than the k largest weights, and all to as much."""
        most = self._table.on(x.device).to(x).cumsum(-1)
        sums = x.sort(-1, descending=True).values.cumsum(-1)
        return torch.maximum((sums - most).amax(-1), (most - sums)[..., -1]) / self._size

    def surely_within(self, x: torch.Tensor, tolerance: float) -> bool:
        """By NumPy, whose sort is several times faster than torch's."""
        if type(x) is not torch.Tensor or torch._C._are_functorch_transforms_active() or not may_ask(x):
            return False
        excess = np.sort(x.numpy(force=True), -1)[:, ::-1].cumsum(-1, dtype=np.float64) - self._most
        room = tolerance * self._size
        return bool(excess.max(initial=0.0) <= room and excess[:, -1].min(initial=0.0) >= -room)

    def coordinate_range(self, tight: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Each entry is any of the weights."""
        n = len(self.weights)
        return np.full(n, self._numbers[-1]), np.full(n, self._numbers[0])

    def _key(self) -> Hashable:
        return tuple(self._numbers)

    def __repr__(self) -> str:
        shown = [f"{w:g}" for w in self._numbers]
        return f"Permutahedron([{', '.join(shown if len(shown) < 8 else [*shown[:3], '...', shown[-1]])}])"


def _losses(z: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Scores of place i with weight j, ``(*batch, n, n)``, less what the best order, i with i, is worth by duals.

    z_i w_j - z_i w_i - (b_j - b_i) <= 0, for sorted z and w and constants b with b_(l+1) - b_l = c_l (w_(l+1) - w_l),
    c_l from z_(l+1) to z_l: from i to j, sums of (z_i - c_l) (w_(l+1) - w_l). No difference of large scores: these
    would leave sums of probabilities that are not 1, and an entropy off by that times <u, x>.
    """
    middle = (0.5 * (z[..., 1:] + z[..., :-1])).detach()
    steps = (z[..., :, None] - middle[..., None, :]) * (w[1:] - w[:-1])
    place = torch.arange(len(w), device=z.device)
    later = place[:-1] >= place[:, None]
    up = torch.where(later, steps, 0.0).cumsum(-1)
    down = torch.where(later, 0.0, steps).flip(-1).cumsum(-1).flip(-1)
    return torch.nn.functional.pad(up, (1, 0)) - torch.nn.functional.pad(down, (0, 1))


def _arrangements(counts: list[int]) -> Iterator[tuple[int, ...]]:
    """All sequences in which label i occurs ``counts[i]`` times."""
    if not any(counts):
        yield ()
    for label, count in enumerate(counts):
        if count:
            rest = [*counts[:label], count - 1, *counts[label + 1 :]]
            yield from ((label, *others) for others in _arrangements(rest))


@sst.fast_path(Permutahedron, sst.Euclidean)
def euclidean(structure: Permutahedron, regularizer: sst.Euclidean, u: torch.Tensor) -> torch.Tensor:
    return project_on_permutations(u, structure._table.on(u.device))


@sst.fast_path(Permutahedron, sst.CategoricalEntropy)
def categorical(structure: Permutahedron, regularizer: sst.CategoricalEntropy, u: torch.Tensor) -> torch.Tensor:
    positive = sum(w > 0 for w in structure._numbers)
    return entropic_on_permutations(u, structure._table.on(u.device), positive)
