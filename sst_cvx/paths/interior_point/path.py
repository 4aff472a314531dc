"""The path "interior_point": a linear hull and a separable regularizer."""

from __future__ import annotations

import torch

from sst_cvx.errors import SolveError
from sst_cvx.once import computed_once
from sst_cvx.paths.base import Accuracy, Batch, Options, Path, Refused
from sst_cvx.paths.gap import frank_wolfe_gap
from sst_cvx.paths.guards import VIOLATION, GradientGuard, check_violation
from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.polytope import Polytope
from sst_cvx.paths.interior_point.varying import Violation
from sst_cvx.paths.layer.path import LayerPath
from sst_cvx.regularizers import Regularizer, SeparableRegularizer
from sst_cvx.structure.base import Structure


class InteriorPointPath(Path):
    """One batched solve, polished on the active set and differentiated implicitly, twice; float64 on any device.

    X depends on u and t through u / t only, so t's gradient comes from u's. Elements that the solver gives up go to
    the layer, unless they are too cold for its accuracy.
    """

    name = "interior_point"
    dtype = torch.float64
    accuracy = Accuracy(gap=1e-8, gradient=1e-7, differences=1e-7, batches=1e-9, value=1e-9)

    def __init__(self, structure: Structure, regularizer: Regularizer, options: Options):
        if not isinstance(regularizer, SeparableRegularizer):
            raise Refused(
                f"{regularizer!r} is not separable (a sum over coordinates), which the interior-point path needs"
            )
        if structure.hull.nonlinearity:
            missing = "" if structure.hull.known else ", which the interior-point path needs"
            raise Refused(f"{structure.hull.nonlinearity}{missing}")
        if any(getattr(p, "_has_dim_reducing_attr", False) for p in structure.parameters):
            raise Refused("parameters of the hull are symmetric, diagonal or alike")
        self.polytope = Polytope(structure, regularizer)
        if self.polytope.too_large:
            raise Refused(self.polytope.too_large)
        self._structure, self._regularizer, self._options = structure, regularizer, options
        self._modulus = regularizer.strong_convexity(structure)
        self.how = self.polytope.how
        self._violation = Violation(structure.declared_hull.canonical) if self.polytope.varies else None

    @property
    def checks_hull(self) -> bool:  # type: ignore[override]
        """Whether each element has a matrix of its own, for which the structure has no batched check."""
        return self._violation is not None

    @computed_once
    def _layer(self) -> LayerPath:
        return LayerPath(self._structure, self._regularizer, self._options)

    def answer(self, batch: Batch) -> torch.Tensor:
        batch.check_finite()
        count, t = len(batch), batch.temperatures
        guard = GradientGuard(self._modulus, t.detach(), batch.elements)
        flat = batch.u.reshape(count, self._structure.event_size)
        u = guard.input(flat * (t.detach() / t)[:, None])
        x, right = self.polytope(u, t.detach(), batch.parameters, batch.elements)
        x = guard.output(x).reshape(batch.u.shape)
        x = x if bool(right.all()) else self._hand_over(batch, x, torch.nonzero(~right).flatten())
        if self._violation is not None:
            violation = self._violation(x.reshape(count, -1), self.polytope.theta(batch.parameters))
            check_violation(violation.numpy(), VIOLATION[torch.float64], self.who())
        return x

    def _hand_over(self, batch: Batch, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The answer with these rows by the layer."""
        rest = batch.take(rows)
        size = rest.u.detach().reshape(len(rest), -1).abs().amax(1)
        cold = rest.temperatures.detach() < tolerances.LAYER_RESOLUTION * size
        if bool(cold.any()):
            raise SolveError(
                "the interior-point solver did not converge for {elements}, and the conic layer is not accurate at a "
                f"temperature below {tolerances.LAYER_RESOLUTION:g} of the utilities: raise it, or scale the "
                "utilities.",
                rows[cold].tolist(),
            )
        rest = rest.to(torch.device("cpu"), torch.float64)
        answer = self._layer(rest)
        gap = frank_wolfe_gap(self._structure.relaxed, self._regularizer, rest.u, answer, rest.t, **rest.parameters)
        wrong = ~(gap <= tolerances.LAYER_GAP * (1 + size.cpu()))
        if bool(wrong.any()):
            raise SolveError(
                "neither the interior-point solver nor the conic layer converged for {elements} (the Frank-Wolfe gap "
                "of the latter has not vanished): raise the temperature, or bring rows and weights to one scale.",
                rows[wrong.to(rows.device)].tolist(),
            )
        return x.index_copy(0, rows, answer.to(x.device))
