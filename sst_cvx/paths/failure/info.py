"""What ``soft(u, t, return_info=True)`` tells of each element."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from sst_cvx.paths.failure.multipliers import multipliers
from sst_cvx.regularizers import ExponentialFamilyEntropy


@dataclass
class Call:
    """What was asked and answered, flat, and kept apart from what the caller may overwrite.

    Attributes:
        u, x: ``(count, *event_shape)``; t: ``(count,)``, float64.
        parameters: of the hull, ``(count, *shape)``; allowed: by masks, shape of u, or None.
        solved: rows that are X_t(u), ``(solved,)``.
        closest: by row, the soft argmax over the relaxed hull, and the least violation.
    """

    u: torch.Tensor
    t: torch.Tensor
    x: torch.Tensor
    parameters: dict[str, torch.Tensor]
    allowed: torch.Tensor | None
    solved: torch.Tensor
    closest: dict[int, tuple[Any, float]]

    def of(self, rows: torch.Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments for ``SoftArgmax.gap`` of some rows."""
        allowed = None if self.allowed is None else self.allowed[rows]
        more = {name: v[rows.cpu()] for name, v in self.parameters.items()}
        return (self.u[rows], self.x[rows], self.t[rows]), more if allowed is None else more | {"mask": allowed}


@dataclass
class SolveInfo:
    """How each element of one call was answered; tensors and arrays have the caller's batch shape.

    Attributes:
        path: the path that answered.
        status: an array of strings: "solved"; "closest", the answer of the closest feasible problem; and, where the
            answer is NaN, "infeasible" (the hull is empty at these parameters), "empty" (the mask leaves nothing) or
            "failed" (the solver did not get there).
        reason: an array of strings: what a ``SolveError`` would have said; "" where there is an answer.
        converged: bool, whether there is an answer.
        iterations: int64: steps of the solver; 0 on fast paths, -1 where it does not say.
    """

    path: str
    status: np.ndarray
    reason: np.ndarray
    converged: torch.Tensor
    iterations: torch.Tensor
    _soft: Any = field(repr=False)
    _call: Call = field(repr=False)

    @cached_property
    def gap(self) -> torch.Tensor:
        """Frank-Wolfe gap, float64, by ``SoftArgmax.gap``; over the relaxed hull where that is what was solved, and NaN
        where there is no answer. Computed when first asked for.

        Raises:
            NotImplementedError: the regularizer has no torch value.
        """
        call, soft = self._call, self._soft
        gap = self._nothing()
        if call.solved.numel():
            at, more = call.of(call.solved)
            gap[call.solved] = soft.gap(*at, **more, **_log(soft, at, more)).to(gap.device)
        for row, (relaxed, _) in call.closest.items():
            at, _ = call.of(torch.tensor([row], device=call.u.device))
            gap[row] = relaxed.gap(*at, **_log(relaxed, at, {}))[0]
        return gap.reshape(self.converged.shape)

    @cached_property
    def violation(self) -> torch.Tensor:
        """How far x is outside the hull, float64, relative to 1 + the size of what bounds it; of "closest" elements
        the least violation |s|, in the units of the declared constraints; NaN where there is no answer. Rows with
        auxiliary variables are not seen."""
        call, structure = self._call, self._soft.structure
        found = self._nothing()
        if call.solved.numel():
            (_, x, _), more = call.of(call.solved)
            if more.pop("mask", None) is not None:
                masked = structure.check_mask(call.allowed[call.solved], x.shape, x.device)  # type: ignore[index]
                x = structure.with_fillers(x, masked)
            worst = structure.violation(x.flatten(1) if x.dim() > 1 else x[:, None], more or None)
            found[call.solved] = worst.clamp(min=0.0).to(found)
        for row, (_, least) in call.closest.items():
            found[row] = least
        return found.reshape(self.converged.shape)

    @cached_property
    def multipliers(self) -> list[Any]:
        """Of each declared constraint, in order, ``(*batch, *constraint.shape)``, float64: the ``dual_value`` that
        CVXPY reports for ``cp.Problem(cp.Maximize(u @ x - t * f), constraints)``. One of many where they are not
        unique; a list of tensors for cones with several parts; NaN for all but "solved" elements. On every path, by a
        linear program an element when first asked for; without derivatives.

        Raises:
            NotImplementedError: ExponentialFamilyEntropy, sets without a hull, masks of structures with fillers.
        """
        call, structure = self._call, self._soft.structure
        shapes = [[d.shape for d in c.dual_variables] for c in self._declared()]
        found = [[np.full((len(call.u), *shape), np.nan) for shape in each] for each in shapes]
        kept = None if call.allowed is None else call.allowed[call.solved].numpy(force=True).astype(float)
        (_, x, _), more = call.of(call.solved)
        more.pop("mask", None)
        values = [{name: v[i].numpy() for name, v in more.items()} for i in range(len(x))]
        each = multipliers(structure, self._direction(), x.double().numpy(force=True), values, kept)
        for row, duals in zip(call.solved.tolist(), each, strict=True):
            for place, dual in zip(found, duals or (), strict=duals is not None):
                for part, own in zip(place, dual if isinstance(dual, list) else [dual], strict=True):
                    part[row] = own.reshape(part.shape[1:])
        batch = tuple(self.converged.shape)
        parts = [[torch.from_numpy(part.reshape(*batch, *part.shape[1:])) for part in place] for place in found]
        return [place[0] if len(place) == 1 else place for place in parts]

    def _declared(self) -> list[Any]:
        structure, regularizer, allowed = self._soft.structure, self._soft.regularizer, self._call.allowed
        if isinstance(regularizer, ExponentialFamilyEntropy) or not structure.hull.known:
            raise NotImplementedError(
                f"multipliers need a declared hull and a regularizer with a gradient, not {regularizer!r} over "
                f"{structure!r}."
            )
        if allowed is not None and structure.fillers(allowed) is not None:
            raise NotImplementedError(f"multipliers of {structure!r} with a mask: its fillers are in no constraint.")
        return structure.constraints

    def _direction(self) -> np.ndarray:
        """u - t grad f(x) of solved rows, 0 at forbidden items; u where f' is infinite: x is constant there."""
        soft, (at, more) = self._soft, self._call.of(self._call.solved)
        u, x, t = (part.double() for part in at)
        mask, dims = more.pop("mask", None), len(soft.structure.event_shape)
        log = _log(soft, at, more if mask is None else more | {"mask": mask}).get("log")
        f = soft.regularizer
        slope = f.gradient(x, dims) if log is None else f.weighted(f.slope_of_log(log.double()))
        slope = torch.where(torch.isfinite(slope), slope, 0.0)
        u = u if mask is None else torch.where(mask, u, 0.0)
        slope = slope if mask is None else torch.where(mask, slope, 0.0)
        return (u - t.reshape(-1, *[1] * dims) * slope).numpy(force=True)

    def _nothing(self) -> torch.Tensor:
        return torch.full((self.converged.numel(),), torch.nan, dtype=torch.float64, device=self.converged.device)


@torch.no_grad()
def _log(soft: Any, at: tuple[Any, ...], more: dict[str, Any]) -> dict[str, torch.Tensor]:
    """log x, where it is to be had and slopes are taken from it: entries that underflow have no other."""
    u, _, t = at
    if isinstance(soft.regularizer, ExponentialFamilyEntropy):
        return {}
    ask: Callable[..., torch.Tensor] = soft.log
    try:
        return {"log": ask(u.double(), t, **more)}
    except (NotImplementedError, RuntimeError):  # no entropy, or logarithms that did not settle
        return {}
