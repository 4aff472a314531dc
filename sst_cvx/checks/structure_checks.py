"""Checks of a declaration: argmax, log-partition, samples; the hull's are in ``hull_checks``."""

from __future__ import annotations

import torch

from sst_cvx.checks.hull_checks import HullChecks
from sst_cvx.checks.inputs import degenerate_utilities, name_input, sample_utilities
from sst_cvx.checks.report import Check, Input, NotApplicable, Worst, at
from sst_cvx.checks.sample_checks import sample_frequencies
from sst_cvx.structure.base import Structure
from sst_cvx.structure.kinds import seem_binary

Finding = tuple[float, float, Input]
_BOTH = (torch.float64, torch.float32)
_PROJECTED = 3  # answers of one batch that are held against an extended formulation, by a linear program each


class _StructureChecks(HullChecks):
    """The measurements; each method returns (figure, bound) or (figure, bound, where)."""

    def argmax_attains(self) -> Finding:
        """Value of ``argmax`` against brute force (or HiGHS), at scales from 1e-6 to 1e12; and it must be in X.

        With neither vertices nor a hull: against all elements that it returns for other utilities.
        """
        worst = Worst()
        for shape in ((0,), (2, 0)):
            u = sample_utilities(self.structure, shape, self.seed)
            with at(f"batch shape {shape}"):
                x = self.structure.argmax(u, **self.parameters)
            if x.shape != u.shape:
                raise ValueError(f"argmax of an empty batch {tuple(u.shape)} has another shape.")
        shapes = ((), (1,), (2, 3), (16,))
        batches = {f"batch shape {shape}": sample_utilities(self.structure, shape, self.seed) for shape in shapes}
        some = sample_utilities(self.structure, (4,), self.seed + 1)
        scales = {f"scale {scale:g}": scale * some for scale in (1e-6, 1e6, 1e12)}
        for name, u in (batches | degenerate_utilities(self.structure, self.seed) | scales).items():
            for dtype in _BOTH:
                where = f"{name}, {dtype}".replace("torch.", "")
                with at(where):
                    loss = self._argmax_loss(u.to(dtype))
                flat = u.to(dtype).reshape(-1, *self.structure.event_shape)
                worst.see(float(loss.max()), name_input(flat, int(loss.argmax()), where))
        return worst.figure, 1e-6, worst.where

    def _argmax_loss(self, u: torch.Tensor) -> torch.Tensor:
        """Of every batch element, ``(count,)``, relative to the utilities' and the set's size."""
        x = self.structure.argmax(u, **self.parameters)
        if x.shape != u.shape or x.dtype != u.dtype:
            raise ValueError(f"argmax returned {tuple(x.shape)} {x.dtype} for utilities {tuple(u.shape)} {u.dtype}.")
        flat, x = (v.reshape(-1, self.structure.event_size).double() for v in (u, x))
        rounding = 10 * torch.finfo(u.dtype).eps * self.extent.centre.abs().max()  # of x itself
        if self.structure.has_vertices():
            best = (flat @ self.points.T).amax(1)
            foreign = torch.cdist(x, self.points, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        elif not self.structure.hull.known:
            others = self.structure.argmax(sample_utilities(self.structure, (256,), self.seed + 1), **self.parameters)
            best = (flat @ others.reshape(256, -1).T).amax(1)
            foreign = torch.zeros(len(x))
        else:
            best = (flat * torch.from_numpy(self.support(flat.numpy()))).sum(1)
            foreign = torch.maximum((x - x.round()).abs().amax(1) * self.whole_numbers, self._outside(x))
        largest = flat.abs().amax(1)
        size = torch.where(largest > 0, largest, 1.0) * (self.extent.length + 1e6 * rounding)
        return torch.maximum((best - (flat * x).sum(1)) / size, (foreign - rounding).clamp(min=0) / self.extent.length)

    def _outside(self, x: torch.Tensor) -> torch.Tensor:
        """How far points ``(count, size)`` are outside the declared hull, ``(count,)``; with auxiliary variables, of
        some of them."""
        values = {name: torch.from_numpy(v).expand(len(x), *v.shape) for name, v in self.values.items()}
        found = self.structure.violation(x, values or None).clamp(min=0).to(x)
        if self.structure.hull.auxiliary:
            for i in range(min(len(x), _PROJECTED)):
                found[i] = max(float(found[i]), self._distance(x[i].numpy()))
        return found

    def binary(self) -> tuple[float, float]:
        """What a class says of itself."""
        if not self.structure.known_binary:
            raise NotApplicable("not declared by known_binary")
        if self.parameters:
            raise NotApplicable("with hull parameters elements are 0/1 arrays where these are integers")
        return 0.0 if seem_binary(self.structure.argmax, self.structure.event_shape) else 1.0, 0.5

    def log_partition(self) -> Finding:
        """Against log-sum-exp over all vertices, at several scales; float64."""
        return self._log_partition(torch.float64, 1e-10)

    def log_partition_single(self) -> Finding:
        """The same, float32."""
        return self._log_partition(torch.float32, 1e-5)

    def _log_partition(self, dtype: torch.dtype, bound: float) -> Finding:
        if not self.structure.has_log_partition():
            raise NotApplicable(self.structure.log_partition_refusal or "log_partition is not given")
        worst = Worst()
        for scale in (0.0, 0.1, 1.0, 10.0, 100.0, 1000.0):
            u = (scale / self.extent.length * sample_utilities(self.structure, (2, 3), self.seed)).to(dtype)
            logits = u.double().reshape(2, 3, -1) @ self.points.T
            truth = logits.logsumexp(-1)
            with at(f"scale {scale:g}"):
                value = self.structure.log_partition(u)
            if value.shape != (2, 3) or value.dtype != u.dtype:
                raise ValueError(f"log_partition returned {tuple(value.shape)} {value.dtype} for a (2, 3) batch.")
            size = 1 + logits.abs().amax(-1)
            error = ((value.double() - truth) / size).abs().flatten()
            worst.see(float(error.max()), name_input(u.flatten(0, 1), int(error.argmax()), f"scale {scale:g}"))
        return worst.figure, bound, worst.where

    def sample(self) -> Finding:
        return sample_frequencies(self.structure, self.seed, self.extent)


def checks(structure: Structure, seed: int, parameters: dict[str, torch.Tensor]) -> list[Check]:
    """Checks of the declaration itself."""
    measure = _StructureChecks(structure, seed, parameters)
    argmax, log_partition = "structure.argmax(u, **parameters)", "structure.log_partition(u)"
    loose = [] if structure.integral else [Check("gap between hull and conv(X), of its width", measure.integrality)]
    return [
        Check("vertices lie in the hull", measure.vertices_in_hull),
        Check("vertices are extreme points, each once", measure.vertices_are_extreme),
        Check("hull is no larger than conv(X)", measure.hull_is_tight, "structure.argmax(direction, **parameters)"),
        *loose,
        Check("argmax is a best element of X", measure.argmax_attains, argmax),
        Check("elements are 0/1 arrays, as declared", measure.binary),
        Check("log-partition equals enumeration", measure.log_partition, log_partition),
        Check("log-partition equals enumeration, float32", measure.log_partition_single, log_partition),
        Check("samples have the right frequencies", measure.sample, "structure.sample(u)"),
    ]
