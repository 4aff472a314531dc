"""SoftArgmax: the one door to X_t(u). Checks what comes in, chooses a path once, guards every answer, gives it back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from sst_cvx.arguments import Absent, check_utilities
from sst_cvx.errors import SolveError
from sst_cvx.host import check_mode, guard
from sst_cvx.once import computed_once, constants, state_without_computed, without_autocast
from sst_cvx.paths import opaque
from sst_cvx.paths.absent import without_absent
from sst_cvx.paths.base import Batch, Options
from sst_cvx.paths.choice import check_name, choose
from sst_cvx.paths.domain import DomainGuard
from sst_cvx.paths.failure import check_failure, each
from sst_cvx.paths.guards import check_hull
from sst_cvx.paths.layer.path import make_solver
from sst_cvx.paths.questions import Questions
from sst_cvx.regularizers import Regularizer
from sst_cvx.regularizers.admission import check_regularizer
from sst_cvx.structure.absent import takes_absent
from sst_cvx.structure.base import Structure
from sst_cvx.structure.faces import Faces


class SoftArgmax(Questions, torch.nn.Module):
    """X_t(u) = argmax { <u, x> - t f(x) : x in conv(X) }, differentiable in u, t and the hull's parameters.

    Args:
        structure: the set X.
        regularizer: the strongly convex f.
        path: "auto" takes the first that applies of "fast" (a registered closed-form or combinatorial algorithm),
            "active_set" (Euclidean: the min-norm-point algorithm, by the hard argmax alone; only for structures without
            a hull and those that prefer it), "interior_point" (a linear hull and a separable f: one batched solve,
            differentiated exactly) and "layer" (the CvxpyLayer: any cone, any convex f); for ``sst.Product`` "product"
            (each factor by its own), for ``sst.Intersection`` also "splitting". By name, it must apply. With
            ``integral=False`` the active-set path projects on conv(X) itself, the others on the declared, looser hull.
        solver, solver_options: engine of the layer: "DIFFCP" (default), "MOREAU", or a cvxpylayers ``SolverInterface``,
            and its settings. What the interior-point solver gives up goes to the layer, too.
        guard: how failures are told: "raise" (at once, asking the host), "nan" (on the device: NaN, and the error at
            the next call or by ``sst.synchronize()``), None: by circumstance, see ``sst.guard``.

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
        guard: str | None = None,
    ):
        super().__init__()
        if not isinstance(structure, Structure):
            hint = " (an instance, not the class)" if isinstance(structure, type) else ""
            raise TypeError(f"structure must be an sst.Structure, got {structure!r}{hint}.")
        check_name(path)
        make_solver(solver, solver_options)  # a wrong name is an error on every path
        self.structure, self.regularizer, self.guard = structure, regularizer, check_mode(guard)
        self._options = Options(path != "auto", solver, solver_options)
        with constants():
            check_regularizer(regularizer, structure)
            self._choose(path)
        self._faces, self._number = Faces(self._of_face), opaque.register(self)

    def _choose(self, path: str) -> None:
        """The first path that takes the pair; ``path`` is then its name."""
        options = replace(self._options, make=self._like)
        self._path, self._why = choose(self.structure, self.regularizer, options, path)
        self.path = self._path.name

    @property
    def _is_open(self) -> bool:
        """Whether compilers and ``torch.func`` see into it: a program of tensors, or of soft argmaxes."""
        return self.path == "fast" or self._path.by_parts

    def _of_face(self, kept: Any) -> SoftArgmax:
        """The same map over the elements without the items that a flat mask leaves out."""
        return self._like(self.structure.face(kept), "auto" if self.path == "fast" else self.path)

    def _like(self, structure: Structure, path: str = "auto", regularizer: Regularizer | None = None) -> SoftArgmax:
        engine = {"solver": self._options.solver, "solver_options": self._options.solver_options}
        return SoftArgmax(structure, regularizer or self.regularizer, path=path, guard=self.guard, **engine)

    def forward(
        self,
        u: torch.Tensor,
        temperature: float | torch.Tensor = 1.0,
        *,
        mask: Any = None,
        on_failure: str = "raise",
        return_info: bool = False,
        **parameters: torch.Tensor,
    ) -> Any:
        """The soft argmax, same shape, dtype and device as ``u``; ``return_info``: a pair of it and a ``SolveInfo``.

        Args:
            u: utilities ``(*batch, *event_shape)``, any floating dtype and device.
            temperature: positive; a number, a scalar tensor, or one that broadcasts to ``batch``. Differentiable.
            mask: bool, broadcasts to ``u``: False where an item is forbidden, and then exactly 0, in every element; its
                utility does not count. The fast paths take any mask; others compile once for each distinct one.
            on_failure: of elements whose parameters contradict, or that did not converge. "raise": SolveError (but see
                ``guard``). "nan": they are NaN, as is their gradient (eagerly, 0 if a loss leaves them out), others are
                untouched, and no error follows. "closest": the soft argmax over the closest feasible hull (linear
                constraints, right sides relaxed by the least squares), differentiable in u and the temperature.
            return_info: whether to tell, by element, how it was answered. Eagerly only, as is "closest".
            parameters: the hull's parameters by name, each of its own shape, with or without leading batch dimensions.

        Raises:
            TypeError, ValueError: arguments of a wrong type, shape or range, naming the argument.
            SolveError: a failed solve, or an answer outside the hull, naming the batch elements.
        """
        how = None
        if on_failure != "raise" or return_info is not False:
            check_failure(on_failure, return_info)
            how = on_failure, return_info
        if self.guard is None:
            return self._checked(u, temperature, mask, parameters, how)
        with guard(self.guard):
            return self._checked(u, temperature, mask, parameters, how)

    def _checked(self, u: torch.Tensor, temperature: Any, mask: Any, parameters: Any, how: Any) -> Any:
        batch_shape = check_utilities(u, self.structure.event_shape)
        with without_autocast(u.device.type):
            masked = None if mask is None else opaque.flat_mask(self.structure, self._is_open, mask, u)
            batch = Batch.of(self.structure, u, temperature, masked, parameters, batch_shape)
            if how is not None:
                return each(self, batch, u, *how)
            x = batch.spoiled(self._answer(batch), self) if u.numel() else u * 0
            return x if x.shape == u.shape and x.dtype == u.dtype else x.reshape(u.shape).to(u.dtype)

    def _answer(self, batch: Batch) -> torch.Tensor:
        """Guarded points, of the device and dtype of the batch."""
        if not self._is_open and opaque.is_needed(batch.u):
            return opaque.answer(self._number, batch)
        if batch.faults is not None:
            if not self._is_open:
                return opaque.patiently(self._at_once, batch, self.structure)
            batch = without_absent(self.structure, batch)
        return self._at_once(batch)

    def _at_once(self, batch: Batch) -> torch.Tensor:
        """The same, asking the host."""
        path, mask, u = self._path, batch.mask, batch.u
        try:
            if batch.parameters and not self._is_open and self._domain.needed:
                self._domain(batch.parameters, batch.elements)
            if mask is not None and not path.takes_masks:
                rest = batch.without_mask()
                return self._faces.answer(mask, u, lambda face, rows: face._at_once(rest.take(rows)))
            if path.device is not None or path.dtype is not None:
                batch = batch.to(path.device or u.device, path.dtype or u.dtype)
            x = path(batch)
            finished = path.finishes(batch)
            if not (path.checks_hull or finished):
                check_hull(self.structure, x, batch.parameters, path.who, batch.faults)
            x = x if mask is None or finished else mask.removed(x, batch.faults)
        except SolveError as error:
            raise batch.elements.rename(error) from error.__cause__
        except Absent as error:
            if not takes_absent(self.structure):
                raise ValueError(f"{error} (It forbids items of 0/1 arrays, whose hull has no parameters.)") from None
            return self._at_once(without_absent(self.structure, batch))
        return x if x.dtype == u.dtype and x.device == u.device else x.to(u.device, u.dtype)

    @computed_once
    def _domain(self) -> DomainGuard:
        return DomainGuard(self.structure, self.regularizer)

    def reference(self) -> SoftArgmax:
        """The same map by the CvxpyLayer."""
        return self._like(self.structure, "layer")

    def __deepcopy__(self, memo: dict[int, Any]) -> SoftArgmax:
        """Nothing to copy: a SoftArgmax has no state of its own, and CVXPY objects must keep their identity."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled, which is made anew where it is loaded."""
        made = ("_path", "_faces", "_number")
        return {name: v for name, v in state_without_computed(self).items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        with constants():
            self._choose(self.path)
        self._why, self._faces, self._number = state["_why"], Faces(self._of_face), opaque.register(self)

    def __repr__(self) -> str:
        return f"SoftArgmax({self.structure!r}, {self.regularizer!r}, path={self.path!r}: {self._why})"
