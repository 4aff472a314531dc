"""The path "active_set": Euclidean soft argmax of a set with an exact argmax, whether it has a hull or not."""

from __future__ import annotations

from typing import cast

import torch

from sst_cvx.paths.active_set.min_norm_point import nearest_points
from sst_cvx.paths.base import Accuracy, Batch, Options, Path, Refused
from sst_cvx.paths.guards import check_gap
from sst_cvx.regularizers import Euclidean, Regularizer
from sst_cvx.structure.base import Structure
from sst_cvx.structure.intersection import Intersection


class ActiveSetPath(Path):
    """X_t(u) as the projection of u / t onto conv(X), float64 inside. Differentiable, twice.

    Weights a_i of the regularizer are a change of coordinates: sqrt(a) x is the projection of u / sqrt(a). With a mask,
    over the elements without forbidden items; fillers are added at the end.
    """

    name = "active_set"
    takes_masks = True
    within_set = True
    accuracy = Accuracy(gap=1e-9, gradient=1e-7, differences=1e-7, batches=1e-10, value=1e-9)

    def __init__(self, structure: Structure, regularizer: Regularizer, options: Options):
        if type(regularizer) is not Euclidean:
            raise Refused(f"{regularizer!r} is not Euclidean(), the one regularizer of the active-set path")
        if structure.parameters:
            raise Refused("the hull has parameters, for which the active-set path has no gradient")
        if not structure.overrides("argmax") and not structure.hull.linear:
            raise Refused("the hull is not a polytope, and the active-set path needs finitely many vertices")
        if isinstance(structure, Intersection) and not options.by_name:
            raise Refused("the hull of common elements may be smaller than the intersection of hulls: ask by name")
        if not (options.by_name or structure.prefers_active_set or not structure.hull.known):
            raise Refused("the interior point is the faster way to this hull")
        self._structure = structure
        self._root = cast(Euclidean, regularizer).flat_weights(structure.event_shape).sqrt()
        self._weighted = bool((self._root != 1).any())
        self.how = f"the min-norm-point algorithm by {type(structure).__name__}.argmax"

    def answer(self, batch: Batch) -> torch.Tensor:
        structure, mask = self._structure, batch.mask
        event, size = structure.event_shape, structure.event_size
        root = self._root.to(batch.u.device)
        weighted = self._weighted

        def argmax(direction: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            direction = (direction * root if weighted else direction).reshape(-1, *event)
            if mask is None:
                best = structure.argmax(direction)
            else:
                own = mask.take(rows)
                best = own.removed(structure.argmax(own.lowered(direction)))
            return best.reshape(-1, size) * root if weighted else best.reshape(-1, size)

        inside = batch.u if mask is None else torch.where(mask.allowed, batch.u, 0.0)
        scaled = batch.over_temperature(inside).reshape(len(batch), size).double()
        x = nearest_points(scaled / root, argmax) / root
        self._certify(scaled.detach(), x.detach(), batch)
        x = x.reshape(batch.u.shape).to(batch.u.dtype)
        return x if mask is None else structure.with_fillers(x, mask)

    def _certify(self, u: torch.Tensor, x: torch.Tensor, batch: Batch) -> None:
        """The Frank-Wolfe gap, by one more argmax: there may be no hull to check against, or an extended one."""
        x = x.to(batch.u.dtype).double()
        slope = (u - self._root.to(u.device).square() * x).reshape(batch.u.shape)
        if batch.mask is not None:  # fillers are no part of the answer
            allowed = batch.mask.allowed.reshape(x.shape)
            best = self._structure.argmax(batch.mask.lowered(slope)).reshape(x.shape)
            best, slope = torch.where(allowed, best, 0.0), torch.where(batch.mask.allowed, slope, 0.0)
        else:
            best = self._structure.argmax(slope).reshape(x.shape)
        gap = (slope.reshape(x.shape) * (best - x)).sum(1)
        check_gap(gap, u, x, batch.u.dtype)
