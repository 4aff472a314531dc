"""A finite list of elements as a structure: what ``Structure.from_vertices`` makes.

Hull: the convex combinations of the list, { V' w : w >= 0, sum w = 1 }. Argmax, log-partition, marginals and samples go
by the products of utilities with all elements.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.arguments import check_finite
from sst_cvx.once import computed_once, later
from sst_cvx.structure.base import Structure
from sst_cvx.structure.composable import makes
from sst_cvx.structure.extreme import TOLERANCE, first_inside, first_repeated
from sst_cvx.structure.vertex_list import VertexList

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")

_RANK = 1e-10  # of the largest singular value: directions that the list does not span


class Listed(Structure, final=True):
    """The structure of a finite list of elements ``(count, *event_shape)``, of any floating dtype.

    The Euclidean soft argmax goes by the active-set path, the exponential family by a softmax over the list, others by
    the interior point with one weight an element. On any device, for up to tens of thousands of elements.

    Raises:
        TypeError: no floating tensor. ValueError: a wrong shape, entries that are not finite, an element twice, or one
            in the hull of the others (both up to 1e-9 of the list's length).
    """

    known_bounded = True
    argmax_on_device = True
    prefers_active_set = True

    def __init__(self, vertices: torch.Tensor):
        points = _checked(vertices)
        self._list = VertexList(points.flatten(1))
        super().__init__(event_shape=vertices.shape[1:])

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        x, weights = cp.Variable(self.event_shape), cp.Variable(len(self._list))
        mixture = self._list.points.numpy().T @ weights
        return x, [weights >= 0, cp.sum(weights) == 1, cp.vec(x, order="C") == mixture]

    @property
    def known_binary(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Found from the list."""
        return self._list.binary

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """The first of the best elements of the list; on the device of ``u``."""
        return self._list.argmax(u.flatten(-len(self.event_shape))).reshape(u.shape)

    def vertices(self) -> torch.Tensor:
        """The list, float64, in its order."""
        return self._list.points.reshape(-1, *self.event_shape)

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log-sum-exp over the list; differentiable any number of times."""
        return self._list.log_partition(u.flatten(-len(self.event_shape)))

    def marginals(self, u: torch.Tensor) -> torch.Tensor:
        """The mean of the list under p(x) proportional to exp <u, x>, of the shape of ``u``; differentiable."""
        return self._list.marginals(u.flatten(-len(self.event_shape))).reshape(u.shape)

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return self._list.sample(u.flatten(-len(self.event_shape)), generator).reshape(u.shape)

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        """How far points ``(batch, size)`` are outside the list's box, or off its affine hull; by tensors alone."""
        low, high, origin, across = self._frame_on(x.device)
        wide = x.double()
        beyond = torch.maximum(low - wide, wide - high).amax(-1)
        off = ((wide - origin) @ across).abs()
        return torch.maximum(beyond, off.amax(-1) if off.shape[-1] else beyond) / self._size

    def prepare(self) -> None:
        self._list.prepare()
        _ = self._frame, self._size

    @computed_once
    def _frame(self) -> tuple[torch.Tensor, ...]:
        """Ends of the box, a point of the affine hull, and an orthonormal basis of what is across it."""
        points = self._list.points
        origin = points.mean(0)
        _, singular, basis = np.linalg.svd((points - origin).numpy(), full_matrices=len(points) <= points.shape[1])
        rank = int((singular > _RANK * singular[0]).sum()) if singular[0] > 0 else 0
        return points.amin(0), points.amax(0), origin, torch.from_numpy(basis[rank:].T.copy())

    @computed_once
    def _size(self) -> float:
        low, high = self._frame[:2]
        return 1.0 + max(float(low.abs().max()), float(high.abs().max()))

    def _frame_on(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        return tuple(part.to(device) for part in self._frame)

    def coordinate_range(self, tight: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Of the list."""
        low, high = self._frame[:2]
        return low.numpy(), high.numpy()

    @computed_once
    def _digest(self) -> str:
        return hashlib.sha256(self._list.points.numpy().tobytes()).hexdigest()

    def _key(self) -> Hashable:
        return self.event_shape, self._digest

    def __repr__(self) -> str:
        return f"Structure.from_vertices({len(self._list)} elements, event_shape={self.event_shape})"


makes("list")(Listed)


def _checked(vertices: Any) -> torch.Tensor:
    """A float64 copy on the CPU of a proper list."""
    if not isinstance(vertices, torch.Tensor) or not vertices.is_floating_point():
        got = vertices.dtype if isinstance(vertices, torch.Tensor) else type(vertices).__name__
        raise TypeError(f"vertices must be a floating-point tensor (count, *event_shape), got {got}: use .double().")
    if vertices.dim() < 2 or not vertices.numel():
        raise ValueError(
            f"vertices must have shape (count, *event_shape), with one element and one entry at least, got "
            f"{tuple(vertices.shape)}: a list of numbers is one of vectors of length 1, vertices[:, None]."
        )
    points = vertices.detach().to("cpu", torch.float64).clone(memory_format=torch.contiguous_format) + 0.0
    check_finite(points, "vertices")
    flat = points.flatten(1).numpy()
    repeated = first_repeated(flat)
    if repeated is not None:
        raise ValueError(
            f"vertices {repeated[0]} and {repeated[1]} are the same element (up to {TOLERANCE:g} of the list's "
            "length): list each one once, e.g. by vertices.unique(dim=0)."
        )
    inside = first_inside(flat)
    if inside is not None:
        raise ValueError(
            f"vertex {inside} is in the convex hull of the others (up to {TOLERANCE:g} of the list's length), and no "
            "argmax would ever need it: leave it out."
        )
    return points
