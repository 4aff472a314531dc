"""The path "splitting": Euclidean soft argmax over an intersection of hulls, by those over each."""

from __future__ import annotations

from dataclasses import replace

import torch

from sst_cvx.arguments import surely_finite
from sst_cvx.errors import Elements, EmptySet, SolveError
from sst_cvx.paths.base import Accuracy, Batch, Options, Path, Refused
from sst_cvx.paths.guards import GradientGuard
from sst_cvx.paths.iterations import count
from sst_cvx.paths.splitting.newton import Newton, Solved
from sst_cvx.paths.splitting.parts import Part
from sst_cvx.paths.splitting.projection import Jacobian, certify, project
from sst_cvx.regularizers import Euclidean, Regularizer
from sst_cvx.structure.base import Structure
from sst_cvx.structure.intersection import Intersection

_LARGE = 300  # columns of a hull
_NEAR = 10.0  # of the set's size: utilities that are answered at once
_EMPTY = "the hulls of the parts of {structure!r} have no common point"


class SplittingPath(Path):
    """X_t(u) as the projection of u / t onto conv(X_1) n conv(X_2) n ..., float64 inside; differentiable, twice.

    By Newton's method on the dual, which asks for projections onto the parts and their derivatives (``newton``).
    Every answer is certified by the parts' argmaxes (``projection``). Masks are answered by faces of the parts.
    """

    name = "splitting"
    dtype = torch.float64
    accuracy = Accuracy(gap=1e-8, gradient=1e-7, differences=1e-6, batches=1e-9, value=1e-8)

    def __init__(self, structure: Structure, regularizer: Regularizer, options: Options):
        if not isinstance(structure, Intersection):
            raise Refused("the structure is no intersection of others" if options.by_name else "")
        if type(regularizer) is not Euclidean:
            raise Refused(f"{regularizer!r} is not Euclidean(), the one regularizer of the splitting path")
        if regularizer.weights is not None:
            raise Refused("the splitting path takes no weights")
        self._parts = [Part(part, options) for part in structure.parts]
        if structure.hull.known and not (options.by_name or self._is_faster(structure)):
            raise Refused("the interior point is the faster way to this hull")
        self._structure, self._size = structure, structure.event_size
        self._unit = min((size for part in self._parts if (size := part.extent()) > 0), default=1.0)
        self.how = f"Newton's method on projections, {', '.join(part.path.name for part in self._parts)}"
        if not structure.hull.known:
            self._refuse_empty()

    def _is_faster(self, structure: Intersection) -> bool:
        """By measurement: where all parts have closed forms, and the hull is a large extended formulation.

        Permutahedron(n) & AtMostKSubset: 0.4 times as fast at n = 10 (110 columns), 9 times at n = 30 (930).
        """
        if not all(part.path.name == "fast" for part in self._parts):
            return False
        columns = structure.declared_hull.canonical.columns
        return columns > max(_LARGE, 4 * structure.event_size)

    def _refuse_empty(self) -> None:
        y = torch.zeros(1, self._size, dtype=torch.float64)
        if bool((self._solve(y, Elements(torch.Size()), None).failed == 2).any()):
            raise EmptySet(_EMPTY.format(structure=self._structure) + ".")

    def _solve(self, y: torch.Tensor, elements: Elements, steps: torch.Tensor | None) -> Solved:
        """Far utilities in stages: what w is for y / 10, is about a tenth of what it is for y."""
        far = y.abs().amax(1, keepdim=True) / (_NEAR * self._unit)
        share, start, done = (1 / far).clamp(max=1.0), None, torch.zeros(len(y), dtype=torch.int64, device=y.device)
        while True:
            solved = Newton(self._parts, share * y, self._unit, elements, steps).solve(start)
            done = done + solved.steps
            if bool((share == 1).all()) or bool((solved.failed == 2).any()):
                return replace(solved, steps=done)
            further = (10 * share).clamp(max=1.0)
            start, share = solved.w * (further / share), further

    def answer(self, batch: Batch) -> torch.Tensor:
        batch.check_finite()
        flat, t = batch.u.reshape(len(batch), self._size), batch.temperatures
        guard = GradientGuard(1.0, t.detach(), batch.elements)
        u = guard.input(flat * (t.detach() / t)[:, None])
        y = u / t.detach()[:, None]
        if not surely_finite(y):
            raise ValueError(f"utilities / temperature overflows {y.dtype}: scale the utilities.")
        with torch.no_grad():
            solved = self._solve(y.detach(), batch.elements, None if batch.steps is None else batch.steps.clone())
            count(solved.steps)
            self._check_solved(solved)
            certify(self._parts, y.detach(), solved, self._unit)
        x = project(y, solved.at.x.mean(0), Jacobian(solved.at, batch.elements))
        return guard.output(x).reshape(batch.u.shape)

    def _check_solved(self, solved: Solved) -> None:
        for kind, why in (
            (2, _EMPTY.format(structure=self._structure)),
            (1, "Newton's method for the intersection did not converge"),
        ):
            rows = torch.nonzero(solved.failed == kind).flatten().tolist()
            if rows:
                raise SolveError(f"no soft argmax was found for {{elements}}: {why}.", rows)
