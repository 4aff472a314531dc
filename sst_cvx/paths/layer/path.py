"""The path "layer": hull and regularizer as one DPP problem, one CvxpyLayer. The reference, the way for any cone."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from sst_cvx.errors import Elements, SolveError
from sst_cvx.hull.canonical import backend
from sst_cvx.hull.violation import ViolationOfLinearHull, violation_by_cvxpy
from sst_cvx.once import CVXPY_LOCK, later
from sst_cvx.paths.base import Accuracy, Batch, Options, Path, Refused
from sst_cvx.paths.guards import VIOLATION, GradientGuard, check_violation
from sst_cvx.paths.layer.degenerate import degenerate_program
from sst_cvx.paths.layer.once import Once
from sst_cvx.paths.layer.probe import ParameterGuard
from sst_cvx.regularizers import ExponentialFamilyEntropy, Regularizer, TsallisEntropy
from sst_cvx.structure.base import Structure
from sst_cvx.structure.declaration import admitted

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")

_RESOLUTION = 1e-6  # temperature over range of utilities below which a conic solver cannot see the regularizer
_SPREAD = 4.0  # utilities are scaled to this range: at 1, derivatives of entropies at t = 0.1 were off by 1, not 1e-4
_ENGINES = {"DIFFCP": ("diffcp", "DiffcpSolver"), "MOREAU": ("moreau", "MoreauSolver")}  # modules, imported when used


def make_solver(solver: Any, options: dict[str, Any] | None) -> Callable[[], Any]:
    """What makes the engine: by name ("DIFFCP", the default, or "MOREAU"), or a cvxpylayers SolverInterface of one's
    own.

    DIFFCP is the default also where Moreau is installed: Moreau is 3 to 10 times faster, but at its tightest setting
    misses the 1e-6 that is promised at t = 1, and its gradients of entropies at t <= 0.3 are off by order 1. Ours, of
    diffcp's solutions refined, are right to 1e-14 and 1e-5 there (5-subsets of 20, ``python -m benchmarks``).
    """
    if not (solver is None or isinstance(solver, str)) and _is_engine(solver):
        if options:
            raise ValueError("solver_options go with a solver's name; configure your SolverInterface itself.")
        return lambda: solver
    if solver is not None and (not isinstance(solver, str) or solver.upper() not in _ENGINES):
        raise ValueError(f"solver must be 'DIFFCP', 'MOREAU' or a cvxpylayers SolverInterface, got {solver!r}.")
    module, name = _ENGINES[(solver or "DIFFCP").upper()]
    if module == "moreau" and importlib.util.find_spec("moreau") is None:
        raise ImportError("solver='MOREAU' needs moreau: pip install 'sst-cvx[moreau]'.")
    return lambda: getattr(importlib.import_module(f"sst_cvx.paths.layer.{module}_engine"), name)(options)


def _is_engine(solver: object) -> bool:
    from cvxpylayers.interfaces.base import SolverInterface

    return isinstance(solver, SolverInterface)


class LayerPath(Path):
    """argmax { <u, x> - t f(x) : x in hull } as a CvxpyLayer, in float64 on the CPU.

    X depends on u and t through u / t only, so t's gradient comes from u's: better than the solver's own.
    """

    name = "layer"
    checks_hull = True  # auxiliary variables included
    device, dtype = torch.device("cpu"), torch.float64
    accuracy = Accuracy(gap=1e-4, gradient=1e-5, differences=1e-4, batches=1e-6, value=1e-6)

    def __init__(self, structure: Structure, regularizer: Regularizer, options: Options):
        self.solver = make_solver(options.solver, options.solver_options)()
        self.how = f"solver {type(self.solver).__name__}"
        _refuse(structure, regularizer)
        self._structure = structure
        with CVXPY_LOCK:
            self._compile(structure, regularizer)
        self._modulus = regularizer.strong_convexity(structure)
        self._regularizer = regularizer

    def accuracy_at(self, t: float) -> Accuracy:
        """Exponential cones lose accuracy at low temperatures (the measured worst, rounded up).

        The Jacobian of Tsallis entropies goes as x^(2 - alpha) at x = 0, so a value off by 1e-7 there has a gradient
        off by its root.
        """
        value, gradient = (1e-6, 1e-5) if t >= 1 else (1e-4, 1e-3)
        gradient = 1e-2 if isinstance(self._regularizer, TsallisEntropy) else gradient
        return replace(self.accuracy, value=value, gradient=gradient, differences=max(gradient, 1e-4))

    def _compile(self, structure: Structure, regularizer: Regularizer) -> None:
        from cvxpylayers.torch.cvxpylayer import CvxpyLayer

        program = degenerate_program(structure, regularizer)
        event, f, constraints = program or (structure.variable, *regularizer.program(structure))
        utilities, temperature = cp.Parameter(event.shape), cp.Parameter(nonneg=True)
        # t * f(x), not f(x) with u / t: valid DPP, and more accurate at low temperatures.
        objective = temperature * f - cp.sum(cp.multiply(utilities, event))
        problem = cp.Problem(cp.Minimize(objective), constraints)
        if not problem.is_dpp():
            raise ValueError(f"the problem with {regularizer!r} over {structure!r} is not DPP.")
        self._shape = tuple(event.shape)
        hull, known = structure.declared_hull, {v.id for v in problem.variables()}
        self._auxiliary = [v for v in hull.auxiliary if v.id in known]
        self._layer = CvxpyLayer(
            problem,
            parameters=[utilities, temperature, *structure.parameters],
            variables=[event, *self._auxiliary],
            solver=self.solver,
            canon_backend=backend(problem),
        )
        # Some programs leave the hull's auxiliary variables out: then only rows without them are checked.
        self._complete = len(self._auxiliary) == len(hull.auxiliary)
        self._violation = None
        if hull.linear and not structure.parameters and (hull.observed or not self._complete):
            self._violation = ViolationOfLinearHull(hull.at(), event_only=not self._complete)

    def answer(self, batch: Batch) -> torch.Tensor:
        """Raises SolveError in the backward, too, where a gradient breaks what every right one obeys."""
        batch.check_finite()
        u, t, event_dims = batch.u, batch.temperatures, [1] * (batch.u.dim() - 1)
        scale = self._scale(u.detach(), t.detach())
        guard, once = GradientGuard(self._modulus, t.detach(), batch.elements), Once()
        u = guard.input(once.input(u * (t.detach() / t).reshape(-1, *event_dims)))
        # The same problem in units that suit the solver's tolerances.
        scaled = (u / scale.reshape(-1, *event_dims)).reshape(len(u), *self._shape)
        given = list(batch.parameters.values())
        probe = self._probe(scaled.detach(), t.detach() / scale, batch.elements)
        x, *auxiliary = self._layer(scaled, t.detach() / scale, *map(once.input, probe.input(given)))
        x = x.reshape(u.shape)
        self._check_hull(x, auxiliary, batch.parameters)
        return guard.output(once.output(probe.output(x) if given else x))

    def _probe(self, u: torch.Tensor, t: torch.Tensor, elements: Elements) -> ParameterGuard:
        """What holds gradients by parameters against this layer's answers."""

        def answer(parameters: list[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
            return self._layer(u[rows], t[rows], *parameters)[0]

        def admits(parameters: list[torch.Tensor]) -> torch.Tensor:
            rights = [admitted(p, v) for p, v in zip(self._structure.parameters, parameters, strict=True)]
            return torch.stack(rights).all(0)

        return ParameterGuard(answer, admits, elements)

    def _scale(self, u: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Unit of utilities and temperature, ``(count,)``."""
        entries = u.reshape(len(u), -1)
        spread = entries.amax(1) - entries.amin(1)
        scale = torch.maximum(spread / _SPREAD, t)
        too_cold = t < _RESOLUTION * scale
        if bool(too_cold.any()):
            raise SolveError(
                f"temperature is below {_RESOLUTION:g} of the utilities' range for {{elements}}: a conic "
                "solver cannot resolve the regularizer there. Raise the temperature, or use structure.argmax(u).",
                torch.nonzero(too_cold).flatten().tolist(),
            )
        return scale

    def _check_hull(self, x: torch.Tensor, auxiliary: list[torch.Tensor], parameters: dict[str, torch.Tensor]) -> None:
        x, auxiliary = x.detach(), [v.detach() for v in auxiliary]
        if self._violation is not None:
            flat = x.reshape(len(x), -1)
            w = self._structure.declared_hull.join(flat, auxiliary) if self._complete else flat
            violation = self._violation(w).numpy()
        else:
            structure, known = self._structure, {v.id for v in (self._structure.variable, *self._auxiliary)}
            violation = violation_by_cvxpy(
                [structure.variable, *self._auxiliary],
                [c for c in structure.constraints if all(v.id in known for v in c.variables())],
                structure.parameters,
                [v.numpy() for v in (x, *auxiliary)],
                [p.detach().numpy() for p in parameters.values()],
            )
        check_violation(violation, VIOLATION[torch.float64], f"the layer's solver ({type(self.solver).__name__})")


def _refuse(structure: Structure, regularizer: Regularizer) -> None:
    """Raise Refused where there is nothing to compile."""
    if isinstance(regularizer, ExponentialFamilyEntropy):
        if structure.log_partition_refusal:
            raise Refused(structure.log_partition_refusal)
        if not structure.has_vertices():
            raise Refused(
                f"the layer of {regularizer!r} over {structure!r} needs vertices(): override log_partition(u) or "
                "vertices() in a subclass of sst.Structure"
            )
    if not structure.hull.known:
        raise Refused(
            f"the layer needs a hull, and {structure!r} has none (it is known by its argmax alone): "
            "use Euclidean(), which path='active_set' answers by the argmax, or declare the hull by "
            "sst.Structure(variable, constraints)"
        )
