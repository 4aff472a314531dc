"""SoftArgmax: the one door to X_t(u). Selects a path once, guards every answer."""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.arguments import check_finite, check_temperature, check_utilities
from sst_cvx.errors import SolveError
from sst_cvx.hull.violation import violation_by_cvxpy
from sst_cvx.paths.active_set import min_norm_point as active_set
from sst_cvx.paths.fast.registry import FastPathFunction, describe, find_fast_path
from sst_cvx.paths.interior_point import path as interior_path
from sst_cvx.paths.interior_point.path import InteriorPath
from sst_cvx.paths.layer.convex_layer import ConvexLayer, GradientGuard, check_violation, make_solver
from sst_cvx.regularizers import ExponentialFamilyEntropy, Regularizer, SeparableRegularizer
from sst_cvx.regularizers.admission import check_regularizer
from sst_cvx.structure.base import Structure
from sst_cvx.structure.masks import Faces, Mask, by_face

PATHS = ("auto", "fast", "active_set", "interior_point", "layer")
_LAYER_RESOLUTION = 1e-4  # temperature over size of utilities below which its answers have too few digits
_GUARD = {torch.float64: 1e-6, torch.float32: 1e-5}  # accepted violation of the hull, relative to its bounds


class SoftArgmax(torch.nn.Module):
    """X_t(u) = argmax { <u, x> - t f(x) : x in conv(X) }, differentiable in u, t and the hull's parameters.

    Args:
        structure: the set X.
        regularizer: the strongly convex f.
        path: "auto" takes the first that applies of "fast" (a registered closed-form or combinatorial algorithm),
            "active_set" (Euclidean: the min-norm-point algorithm, by the hard argmax alone; only for structures without
            a hull and those that prefer it), "interior_point" (a linear hull and a separable f: one batched solve,
            differentiated exactly) and "layer" (the CvxpyLayer: any cone, any convex f). By name, it must apply. With
            ``integral=False`` the active-set path projects on conv(X) itself, the others on the declared, looser hull.
        solver: engine of the layer (and of ``reference()``): "DIFFCP" (default), "MOREAU", or a cvxpylayers
            ``SolverInterface``. Other paths have no engine, but elements that the interior-point solver gives up go
            to the layer.
        solver_options: settings of that engine.

    Attributes:
        path: the path that answers.

    Raises:
        TypeError, ValueError: no structure or regularizer, f not convex or not finite on the hull, or a pair that no
            path supports.

    Example:
        >>> soft = SoftArgmax(polytopes.KSubset(6, 2), BinaryEntropy())
        >>> soft(torch.randn(3, 6), temperature=0.5).sum(-1)
        tensor([2., 2., 2.])
    """

    def __init__(
        self,
        structure: Structure,
        regularizer: Regularizer,
        *,
        path: str = "auto",
        solver: Any = None,
        solver_options: dict[str, Any] | None = None,
    ):
        super().__init__()
        if not isinstance(structure, Structure):
            hint = " (an instance, not the class)" if isinstance(structure, type) else ""
            raise TypeError(f"structure must be an sst.Structure, got {structure!r}{hint}.")
        if path not in PATHS:
            raise ValueError(f"path must be one of {PATHS}, got {path!r}.")
        make_solver(solver, solver_options)  # a wrong name is an error on every path
        check_regularizer(regularizer, structure)
        self.structure, self.regularizer = structure, regularizer
        self._solver, self._solver_options = solver, solver_options
        function, reason = find_fast_path(structure, regularizer)
        if path == "fast" and function is None:
            raise ValueError(f"path='fast' does not apply: {reason}. Use path='auto' or another one.")
        self._layer: ConvexLayer | None = None
        self._faces = Faces(structure)
        self._function: FastPathFunction
        if function is not None and path in ("auto", "fast"):
            self.path, self._function, self._why = "fast", function, reason
        elif path in ("auto", "active_set") and self._try_active_set(reason, insist=path == "active_set"):
            self.path, self._function = "active_set", active_set.euclidean_by_active_set
        elif path == "layer" or not self._try_interior_point(reason, insist=path == "interior_point"):
            self.path, self._layer = "layer", self._compile(reason)
            asked = "asked for by name" if path == "layer" else self._why
            self._why = f"{asked}; solver {type(self._layer.solver).__name__}"

    def _try_active_set(self, reason: str, insist: bool) -> bool:
        """Whether the active-set path answers for this pair; ``insist`` raises where it cannot."""
        refused = active_set.refusal(self.structure, self.regularizer)
        if refused and insist:
            raise ValueError(f"path='active_set' does not apply: {refused}. Use path='auto' or another one.")
        if refused or not (insist or self.structure.prefers_active_set or not self.structure.has_hull):
            return False
        asked = "asked for by name" if insist else reason
        self._why = f"{asked}; the min-norm-point algorithm by {type(self.structure).__name__}.argmax"
        return True

    def _try_interior_point(self, reason: str, insist: bool) -> bool:
        """Whether the interior-point path takes this pair; ``insist`` raises where it does not."""
        refused = interior_path.refusal(self.structure, self.regularizer)
        if refused and insist:
            raise ValueError(f"path='interior_point' does not apply: {refused}. Use path='auto' or 'layer'.")
        self._why = f"{reason}; {refused}" if refused else reason
        if refused:
            return False
        assert isinstance(self.regularizer, SeparableRegularizer)  # what refusal() made sure of
        interior = InteriorPath(self.structure, self.regularizer)
        if interior.too_large:
            self._why = f"{reason}; {interior.too_large}"
            if insist:
                raise ValueError(f"path='interior_point' does not apply: {interior.too_large}. Use path='layer'.")
            return False
        self.path, self._interior = "interior_point", interior
        self._modulus = self.regularizer.strong_convexity(self.structure)
        return True

    def _compile(self, reason: str) -> ConvexLayer:
        if isinstance(self.regularizer, ExponentialFamilyEntropy):
            if self.structure.log_partition_refusal:
                raise ValueError(f"{self.structure.log_partition_refusal}.")
            if not self.structure.has_vertices():
                raise ValueError(
                    f"ExponentialFamilyEntropy over {self.structure!r} has no path: {reason}, and the layer needs "
                    "vertices(). Override log_partition(u) or vertices() in a subclass of sst.Structure."
                )
        if not self.structure.has_hull:
            raise ValueError(
                f"the layer needs a hull, and {self.structure!r} has none (it is known by its argmax alone): "
                "use Euclidean(), which path='active_set' answers by the argmax, or declare the hull by "
                "sst.Structure(variable, constraints)."
            )
        return ConvexLayer(self.structure, self.regularizer, self._solver, self._solver_options)

    def forward(
        self,
        u: torch.Tensor,
        temperature: float | torch.Tensor = 1.0,
        *,
        mask: torch.Tensor | None = None,
        **parameters: torch.Tensor,
    ) -> torch.Tensor:
        """The soft argmax, same shape, dtype and device as ``u``.

        Args:
            u: utilities ``(*batch, *event_shape)``, any floating dtype and device.
            temperature: positive; a number, a scalar tensor, or one that broadcasts to ``batch``. Differentiable.
            mask: bool, broadcasts to ``u``: False where an item is forbidden, and then exactly 0, in every element; its
                utility does not count. The fast paths take any mask; others compile once for each distinct one.
            parameters: the hull's parameters by name, each of its own shape, with or without leading batch dimensions.

        Raises:
            TypeError, ValueError: arguments of a wrong type, shape or range, naming the argument.
            SolveError: a failed solve, or an answer outside the hull, naming the batch elements.
        """
        if mask is not None:
            return self._masked(Mask(self.structure, u, mask), u, temperature)
        batch_shape = check_utilities(u, self.structure.event_shape)
        wide = u if u.dtype in _GUARD else u.float()
        t, t_event = check_temperature(temperature, wide, batch_shape, len(self.structure.event_shape))
        values = self.structure.flat_parameters(parameters, batch_shape)
        if self.path in ("fast", "active_set"):
            x = self._by_function(u, wide, t_event, batch_shape, values)
        elif self.path == "interior_point":
            x = self._by_interior_point(wide, t, batch_shape, values)
        else:
            x = self._by_layer(wide, t, batch_shape, values)
        return x if x.dtype == u.dtype else x.to(u.dtype)

    def _masked(self, mask: Mask, u: torch.Tensor, temperature: float | torch.Tensor) -> torch.Tensor:
        wide = u if u.dtype in _GUARD else u.float()
        t, t_event = check_temperature(temperature, wide, mask.batch_shape, len(self.structure.event_shape))
        if self.path == "active_set":
            inside = torch.where(mask.allowed, wide, 0.0)
            x = self._by_function(inside, inside, t_event, mask.batch_shape, {}, mask)
            return mask.removed(x).to(u.dtype)
        lowered = mask.lowered(wide, t)
        if self.path == "fast":
            return mask.removed(self(lowered, t)).to(u.dtype)
        batch = mask.batch_shape.numel()
        flat = lowered.reshape(batch, *self.structure.event_shape)
        temperatures = torch.as_tensor(t, dtype=wide.dtype, device=u.device).expand(mask.batch_shape).reshape(batch)

        def make(face: Structure) -> SoftArgmax:
            solver = {"solver": self._solver, "solver_options": self._solver_options}
            return SoftArgmax(face, self.regularizer, path=self.path, **solver)

        return by_face(mask, self._faces, make, wide, lambda soft, i: soft(flat[i], temperatures[i])).to(u.dtype)

    def _by_function(
        self,
        u: torch.Tensor,
        wide: torch.Tensor,
        t_event: torch.Tensor | float,
        batch_shape: torch.Size,
        values: dict[str, torch.Tensor],
        mask: Mask | None = None,
    ) -> torch.Tensor:
        scaled = wide / t_event
        if not bool(torch.isfinite(scaled).all()):
            check_finite(u, "utilities")
            raise ValueError(f"utilities / temperature overflows {wide.dtype}: scale the utilities, or use float64.")
        if not scaled.numel():
            return scaled * 0
        shaped: dict[str, Any] = {name: v.reshape(*batch_shape, *v.shape[1:]) for name, v in values.items()}
        if mask is not None:
            shaped["mask"] = mask
        try:
            x = self._function(self.structure, self.regularizer, scaled, **shaped)
        except SolveError as error:
            raise error.in_batch(batch_shape) from error.__cause__
        if x.shape != u.shape or x.dtype != wide.dtype or x.device != u.device:
            raise SolveError(
                f"fast path {describe(self._function)} returned {tuple(x.shape)} {x.dtype} {x.device} for utilities "
                f"{tuple(u.shape)} {wide.dtype} {u.device}: it must keep shape, dtype and device."
            )
        self._guard(x, batch_shape, values, f"fast path {describe(self._function)}")
        if self.path == "active_set":
            self._guard_by_gap(scaled, x, batch_shape, mask)
        return x

    def _guard_by_gap(self, scaled: torch.Tensor, x: torch.Tensor, batch_shape: torch.Size, mask: Mask | None) -> None:
        """The Frank-Wolfe gap certifies the answer where there is no hull, or an extended one; one more argmax."""
        event = tuple(range(len(batch_shape), x.dim()))
        point, u = x.detach().double(), scaled.detach().double()
        size = 1 + ((u.abs() + point.abs()) * (1 + point.abs())).sum(event)
        gap = self.gap(u, point, mask=None if mask is None else mask.allowed)
        wrong = torch.nonzero(~(gap <= _GUARD[x.dtype] * size).reshape(-1)).flatten()
        if wrong.numel():
            raise SolveError(
                "the active-set path returned a point that is not optimal for {elements}: the Frank-Wolfe gap has not "
                "vanished. It is not returned. Is argmax exact?",
                wrong.tolist(),
            ).in_batch(batch_shape)

    def _guard(self, x: torch.Tensor, batch_shape: torch.Size, values: dict[str, torch.Tensor], who: str) -> None:
        """The answer against the hull; rows with auxiliary variables cannot be checked from x alone."""
        flat = x.detach().reshape(batch_shape.numel(), self.structure.variable.size)
        violation = self.structure.violation(flat)
        if violation is None:
            if self.structure.hull.auxiliary:
                violation = torch.where(torch.isfinite(flat).all(-1), 0.0, torch.inf)
            else:
                points = flat.cpu().double().reshape(-1, *self.structure.event_shape).numpy()
                numbers = [v.detach().numpy() for v in values.values()]
                s = self.structure
                violation = torch.as_tensor(
                    violation_by_cvxpy([s.variable], s.constraints, s.parameters, [points], numbers)
                )
        if bool((violation <= _GUARD[x.dtype]).all()):
            return
        try:
            check_violation(violation.cpu().numpy(), _GUARD[x.dtype], who)
        except SolveError as error:
            raise error.in_batch(batch_shape) from None

    def _by_interior_point(
        self, u: torch.Tensor, t: torch.Tensor | float, batch_shape: torch.Size, values: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        check_finite(u, "utilities")
        batch = batch_shape.numel()
        if not batch:
            return u * 0
        flat = u.reshape(batch, self.structure.variable.size).double()
        temperatures = torch.as_tensor(t, dtype=torch.float64, device=u.device).expand(batch_shape).reshape(batch)
        guard = GradientGuard(self._modulus, temperatures.detach(), batch_shape)
        # X depends on u and t through u / t only.
        inputs = guard.input(flat * (temperatures.detach() / temperatures)[:, None])
        try:
            x, right = self._interior(inputs, temperatures.detach(), values)
        except SolveError as error:
            raise error.in_batch(batch_shape) from error.__cause__
        x = guard.output(x)
        if not bool(right.all()):
            x = self._give_up(flat, temperatures, x, right, batch_shape, values)
        self._guard(x, batch_shape, values, "the interior-point path")
        return x.reshape(u.shape).to(u.dtype)

    def _give_up(
        self,
        u: torch.Tensor,
        t: torch.Tensor,
        x: torch.Tensor,
        right: torch.Tensor,
        batch_shape: torch.Size,
        values: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Elements that did not converge go to the layer, unless it is too cold for its accuracy."""
        rest = torch.nonzero(~right).flatten()
        part_u = u[rest].detach()
        cold = t[rest].detach() < _LAYER_RESOLUTION * part_u.abs().amax(1)
        if bool(cold.any()):
            raise SolveError(
                "the interior-point solver did not converge for {elements}, and the conic layer is not accurate at a "
                f"temperature below {_LAYER_RESOLUTION:g} of the utilities: raise it, or scale the utilities.",
                rest[cold].tolist(),
            ).in_batch(batch_shape)
        if self._layer is None:
            self._layer = self._compile(self._why)
        part = {name: v[rest.cpu()] for name, v in values.items()}
        try:
            answer = self._by_layer(u[rest].reshape(-1, *self.structure.event_shape), t[rest], rest.shape, part)
        except SolveError as error:
            raise error.among(rest.tolist()).in_batch(batch_shape) from error.__cause__
        return x.index_copy(0, rest, answer.reshape(len(rest), -1))

    def _by_layer(
        self, u: torch.Tensor, t: torch.Tensor | float, batch_shape: torch.Size, values: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        assert self._layer is not None
        check_finite(u, "utilities")
        batch = batch_shape.numel()
        flat = u.to("cpu", torch.float64).reshape(batch, *self.structure.event_shape)
        if not batch:
            return u * 0
        temperatures = torch.as_tensor(t).to("cpu", torch.float64).expand(batch_shape).reshape(batch)
        try:
            x = self._layer(flat, temperatures, values, batch_shape)
        except SolveError as error:
            raise error.in_batch(batch_shape) from error.__cause__
        return x.reshape(u.shape).to(u.device, u.dtype)

    @torch.no_grad()
    def gap(
        self,
        u: torch.Tensor,
        x: torch.Tensor,
        temperature: float | torch.Tensor = 1.0,
        *,
        mask: torch.Tensor | None = None,
        **parameters: torch.Tensor,
    ) -> torch.Tensor:
        """Frank-Wolfe gap max_{v in X} <u - t grad f(x), v - x>, ``(*batch,)``, float64: zero exactly at X_t(u).

        A certificate that trusts no soft solver, one hard argmax away; if f is m-strongly convex,
        t m / 2 |x - X_t(u)|^2 <= gap. Entropies are evaluated at the smallest positive number where x is 0.

        Raises:
            NotImplementedError: the regularizer has no torch value (or is exponential-family).
        """
        batch_shape = check_utilities(u, self.structure.event_shape)
        event_dim = len(self.structure.event_shape)
        wide, point = u.detach().double(), x.detach().double()
        if point.shape != u.shape:
            raise ValueError(f"x must have the shape of the utilities, {tuple(u.shape)}, got {tuple(x.shape)}.")
        _, t = check_temperature(temperature, wide, batch_shape, event_dim)
        direction = wide - t * self.regularizer.gradient(point, event_dim)
        if mask is None:
            best = self.structure.argmax(direction, **parameters)
        else:
            best = self.structure.masked_argmax(direction, mask)
            direction = torch.where(mask.to(u.device), direction, 0.0)
        return (direction * (best - point)).reshape(*batch_shape, self.structure.variable.size).sum(-1)

    def reference(self) -> SoftArgmax:
        """The same map by the CvxpyLayer."""
        return SoftArgmax(
            self.structure, self.regularizer, path="layer", solver=self._solver, solver_options=self._solver_options
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> SoftArgmax:
        """Nothing to copy: a SoftArgmax has no state of its own, and CVXPY objects must keep their identity."""
        return self

    def __repr__(self) -> str:
        return f"SoftArgmax({self.structure!r}, {self.regularizer!r}, path={self.path!r}: {self._why})"
