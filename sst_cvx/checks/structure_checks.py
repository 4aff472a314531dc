"""Checks of a declaration: hull, vertices, argmax, log-partition."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import torch

from sst_cvx.checks.report import Check, NotApplicable, Worst, at
from sst_cvx.hull.violation import violation_by_cvxpy
from sst_cvx.structure.base import Structure
from sst_cvx.structure.kinds import seem_binary

_MOST_VERTICES = 20_000  # enumerated in full up to here


def sample_utilities(structure: Structure, batch: tuple[int, ...], seed: int) -> torch.Tensor:
    """Standard normal utilities, float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch, *structure.event_shape)
    return torch.randn(shape, dtype=torch.float64, generator=generator, device="cpu")


def degenerate_utilities(structure: Structure, seed: int) -> dict[str, torch.Tensor]:
    """Named batches of awkward utilities: ties, all equal, a huge range, tiny differences."""
    u = sample_utilities(structure, (4,), seed)
    return {
        "zeros": torch.zeros_like(u[:1]),
        "ties": u.round(),
        "two values": torch.sign(u),
        "range 1e4": u / u.abs().max().clamp(min=1e-9) * 5e3,
        "differences 1e-9": 1.0 + 1e-9 * u,
    }


def name_input(u: torch.Tensor, element: int) -> str:
    """One of a batch of utilities, as a failure names it."""
    first = "" if len(u) == 1 else f"batch element {element} of {len(u)}, "
    return f"{first}u = {listed(u[element])}"


def listed(x: torch.Tensor) -> str:
    """The first numbers of an array."""
    numbers = x.detach().flatten().tolist()
    return f"[{', '.join(f'{v:.5g}' for v in numbers[:8])}{f', ... {len(numbers)} numbers' * (len(numbers) > 8)}]"


def enumerate_vertices(structure: Structure) -> torch.Tensor:
    """``vertices()``, flat, or NotApplicable."""
    if not structure.has_vertices():
        raise NotApplicable("vertices() is not given")
    points = structure.vertices()
    if points.shape[1:] != structure.event_shape:
        raise ValueError(f"vertices() has shape {tuple(points.shape)}, not (count, *{structure.event_shape}).")
    if len(points) > _MOST_VERTICES:
        raise NotApplicable(f"{len(points)} vertices are too many: use a smaller instance")
    return points.reshape(len(points), -1)


class _StructureChecks:
    """The measurements; each method returns (figure, bound) or (figure, bound, where)."""

    def __init__(self, structure: Structure, seed: int, parameters: dict[str, torch.Tensor]):
        self.structure, self.seed, self.parameters = structure, seed, parameters
        flat = structure.flat_parameters(parameters, torch.Size([1]))
        self.values = {name: v[0].detach().numpy() for name, v in flat.items()}

    def vertices_in_hull(self) -> tuple[float, float, str]:
        self._need_hull()
        points = enumerate_vertices(self.structure)
        hull = self.structure.hull
        if hull.auxiliary:
            chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(self.seed))[:64]
            worst = Worst()
            for i in chosen:
                worst.see(self._distance(points[i].numpy()), f"vertex {listed(points[i])}")
            return worst.figure, 1e-6, worst.where
        shaped = points.reshape(-1, *self.structure.event_shape).numpy()
        repeated = [np.broadcast_to(v, (len(shaped), *v.shape)) for v in self.values.values()]
        s = self.structure
        outside = violation_by_cvxpy([s.variable], s.constraints, s.parameters, [shaped], repeated)
        return float(outside.max()), 1e-9, f"vertex {listed(points[int(outside.argmax())])}"

    def _need_hull(self) -> None:
        if not self.structure.hull.known:
            raise NotApplicable("no hull: known by its argmax alone")

    def _distance(self, point: np.ndarray) -> float:
        """L1 distance of a point to the projection of an extended formulation."""
        s = self.structure
        for p in s.parameters:
            p.value = self.values[p.name()]
        objective = cp.Minimize(cp.norm1(cp.vec(s.variable, order="C") - point))
        return float(cp.Problem(objective, s.constraints).solve())  # type: ignore[arg-type]

    def hull_is_tight(self) -> tuple[float, float, str]:
        """Support function of the hull against the vertices' in random, sparse and coordinate directions."""
        self._need_hull()
        size = self.structure.variable.size
        rng = np.random.default_rng(self.seed)
        dense = rng.normal(size=(64, size))
        directions = np.vstack([dense, dense * (rng.random(dense.shape) < 0.3), np.eye(size), -np.eye(size)])
        best = self._support(directions)
        if not self.structure.has_vertices():
            if not self.structure.integral:
                raise NotApplicable("integral=False: the hull may be loose")
            excess, bound = np.abs(best - np.round(best)).max(axis=1), 1e-6  # its extreme points must be integer
            return float(excess.max()), bound, self._direction(directions[excess.argmax()])
        points = enumerate_vertices(self.structure).numpy()
        reached = (directions @ points.T).max(axis=1)
        excess = (np.einsum("ij,ij->i", directions, best) - reached) / (1 + np.abs(reached))
        return float(excess.max()), 1e-6, self._direction(directions[excess.argmax()])

    @staticmethod
    def _direction(direction: np.ndarray) -> str:
        return f"direction {listed(torch.as_tensor(direction))}"

    def _support(self, directions: np.ndarray) -> np.ndarray:
        s = self.structure
        values = [self.values] * len(directions) if s.parameters else None
        hull = s.declared_hull
        return (hull.oracle if s.integral else hull.integer_oracle)(directions, values)

    def argmax_attains(self) -> tuple[float, float, str]:
        """Value of ``argmax`` against brute force (or HiGHS); and it must be an element of X.

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
        for name, u in (batches | degenerate_utilities(self.structure, self.seed)).items():
            for dtype in (torch.float64, torch.float32):
                where = f"{name}, {dtype}".replace("torch.", "")
                with at(where):
                    loss = self._argmax_loss(u.to(dtype))
                flat = u.reshape(-1, self.structure.variable.size)
                worst.see(float(loss.max()), f"{where}, {name_input(flat, int(loss.argmax()))}")
        return worst.figure, 1e-6, worst.where

    def _argmax_loss(self, u: torch.Tensor) -> torch.Tensor:
        """Of every batch element, ``(count,)``."""
        x = self.structure.argmax(u, **self.parameters)
        if x.shape != u.shape or x.dtype != u.dtype:
            raise ValueError(f"argmax returned {tuple(x.shape)} {x.dtype} for utilities {tuple(u.shape)} {u.dtype}.")
        flat, x = (v.reshape(-1, self.structure.variable.size).double() for v in (u, x))
        if self.structure.has_vertices():
            points = enumerate_vertices(self.structure)
            best = (flat @ points.T).amax(1)
            foreign = torch.cdist(x, points).amin(1)
        elif not self.structure.hull.known:
            others = self.structure.argmax(sample_utilities(self.structure, (256,), self.seed + 1), **self.parameters)
            best = (flat @ others.reshape(256, -1).T).amax(1)
            foreign = torch.zeros(len(x))
        else:
            best = (flat * torch.from_numpy(self._support(flat.numpy()))).sum(1)
            foreign = (x - x.round()).abs().amax(1) * self.structure.integral
        size = 1 + flat.abs().amax(1)
        return torch.maximum((best - (flat * x).sum(1)) / size, foreign)

    def binary(self) -> tuple[float, float]:
        """What a class says of itself."""
        if not self.structure.known_binary:
            raise NotApplicable("not declared by known_binary")
        return 0.0 if seem_binary(self.structure.argmax, self.structure.event_shape) else 1.0, 0.5

    def log_partition(self) -> tuple[float, float, str]:
        """Against log-sum-exp over all vertices, at several scales."""
        if not self.structure.has_log_partition():
            raise NotApplicable(self.structure.log_partition_refusal or "log_partition is not given")
        points = enumerate_vertices(self.structure)
        worst = Worst()
        for scale in (0.0, 0.1, 1.0, 10.0, 100.0, 1000.0):
            u = scale * sample_utilities(self.structure, (2, 3), self.seed)
            truth = (u.reshape(2, 3, -1) @ points.T).logsumexp(-1)
            with at(f"scale {scale:g}"):
                value = self.structure.log_partition(u)
            if value.shape != (2, 3) or value.dtype != u.dtype:
                raise ValueError(f"log_partition returned {tuple(value.shape)} {value.dtype} for a (2, 3) batch.")
            error = ((value - truth) / (1 + truth.abs())).abs().flatten()
            worst.see(float(error.max()), f"scale {scale:g}, {name_input(u.flatten(0, 1), int(error.argmax()))}")
        return worst.figure, 1e-10, worst.where


def checks(structure: Structure, seed: int, parameters: dict[str, Any]) -> list[Check]:
    """Checks of the declaration itself."""
    measure = _StructureChecks(structure, seed, parameters)
    return [
        Check("vertices lie in the hull", measure.vertices_in_hull),
        Check("hull is no larger than conv(X)", measure.hull_is_tight),
        Check("argmax is a best element of X", measure.argmax_attains),
        Check("elements are 0/1 arrays, as declared", measure.binary),
        Check("log-partition equals enumeration", measure.log_partition),
    ]
