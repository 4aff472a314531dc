"""What the splitting path knows of one part of an intersection: its Euclidean soft argmax, and its support function."""

from __future__ import annotations

import torch

from sst_cvx.errors import Elements
from sst_cvx.paths.active_set.path import ActiveSetPath
from sst_cvx.paths.base import Batch, Options, Path, Refused
from sst_cvx.paths.fast.path import FastPath
from sst_cvx.paths.guards import check_hull
from sst_cvx.paths.interior_point.path import InteriorPointPath
from sst_cvx.regularizers import Euclidean
from sst_cvx.structure.base import Structure

#: Ways to a part's projection, in the order of trial; the layer has not the digits.
_WAYS: tuple[type[Path], ...] = (FastPath, ActiveSetPath, InteriorPointPath)


class Part:
    """One structure whose hull is a polytope, and the path to its Euclidean soft argmax.

    Raises:
        Refused: no path but the layer's takes it, or its hull has parameters.
    """

    def __init__(self, structure: Structure, options: Options):
        if structure.parameters:
            raise Refused(f"the hull of {structure!r} has parameters, which only the common hull takes")
        if structure.hull.known and not structure.hull.linear:
            raise Refused(f"the hull of {structure!r} is no polytope, which the splitting path needs")
        self._structure, self.path = structure, _choose(structure, options)
        self._set = structure if self.path.within_set else structure.relaxed
        self._event = structure.event_shape

    def nearest(self, z: torch.Tensor, elements: Elements, steps: torch.Tensor | None) -> torch.Tensor:
        """Projections of ``(rows, size)`` points onto the hull; differentiable."""
        batch = Batch(z.reshape(-1, *self._event), 1.0, {}, None, elements, steps=steps)
        x = self.path(batch)
        check_hull(self._structure, x, {}, self.path.who)
        return x.reshape(z.shape)

    def furthest(self, direction: torch.Tensor) -> torch.Tensor:
        """Elements ``(rows, size)`` that go furthest along directions of this shape."""
        return self._set.argmax(direction.reshape(-1, *self._event)).reshape(direction.shape)

    def extent(self) -> float:
        """The size of the set, about."""
        u = torch.randn(8, self._structure.event_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        return float((self.furthest(u) - self.furthest(-u)).abs().max())


def _choose(structure: Structure, options: Options) -> Path:
    refusals = []
    for way in _WAYS:
        try:
            return way(structure, Euclidean(), Options(False, options.solver, options.solver_options))
        except Refused as refused:
            refusals.append(str(refused))
    raise Refused(f"no path but the layer projects onto the hull of {structure!r}: {'; '.join(refusals)}")
