"""Checks of a hull against the set: neither smaller nor larger than conv(X), and the vertices are its own."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.checks.inputs import Extent, enumerate_vertices, listed
from sst_cvx.checks.points import are_extreme, extreme_points, facet_normals
from sst_cvx.checks.report import Input, NotApplicable, Worst
from sst_cvx.hull.canonical import backend
from sst_cvx.hull.linear import LinearHull
from sst_cvx.hull.violation import violation_by_cvxpy
from sst_cvx.once import later
from sst_cvx.structure.base import Structure
from sst_cvx.structure.integrality import along_rows, directions_of, gaps

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")

_FEASIBILITY = 1e-9  # HiGHS's, absolute
_RANDOM = 64  # directions in which the gap between a relaxation and conv(X) is measured, besides the coordinates


class HullChecks:
    """The measurements; each method returns (figure, bound, where)."""

    def __init__(self, structure: Structure, seed: int, parameters: dict[str, torch.Tensor]):
        self.structure, self.seed, self.parameters = structure, seed, parameters
        flat = structure.flat_parameters(parameters, torch.Size([1]))
        self.values = {name: v[0].detach().numpy() for name, v in flat.items()}

    @cached_property
    def points(self) -> torch.Tensor:
        """Vertices, flat."""
        return enumerate_vertices(self.structure)

    @cached_property
    def extent(self) -> Extent:
        return Extent.of(self.structure, self.parameters)

    @cached_property
    def _numbers(self) -> LinearHull | None:
        """The hull's rows; None of one with other cones, or none at all."""
        hull = self.structure.hull
        return hull.at(self.values) if self.structure.hull.known and hull.linear else None  # type: ignore[union-attr]

    @cached_property
    def whole_numbers(self) -> bool:
        """Whether the hull is declared in whole numbers, as one of integer points is, or elements are 0/1 arrays."""
        hull = self._numbers
        if hull is None or not self.structure.integral:
            return False
        if self.structure.known_binary:
            return True
        parts = (hull.lower, hull.upper, hull.rows.data, hull.row_lower, hull.row_upper)
        return all(bool((part == np.round(part)).all()) for part in parts)

    def vertices_in_hull(self) -> tuple[float, float, Input]:
        self._need_hull()
        points, s = self.points, self.structure
        if s.hull.auxiliary:
            chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(self.seed))[:64]
            worst = Worst()
            for i in chosen:
                worst.see(self._distance(points[i].numpy()), self._vertex(points[i]))
            return worst.figure, 1e-6 * self.extent.reach, worst.where
        shaped = points.reshape(-1, *s.event_shape).numpy()
        repeated = [np.broadcast_to(v, (len(shaped), *v.shape)) for v in self.values.values()]
        outside = violation_by_cvxpy([s.variable], s.constraints, s.parameters, [shaped], repeated)
        return float(outside.max()), 1e-9, self._vertex(points[int(outside.argmax())])

    def _vertex(self, point: torch.Tensor) -> Input:
        return Input(f"vertex {listed(point)}", vertex=point.reshape(self.structure.event_shape))

    def _need_hull(self) -> None:
        if not self.structure.hull.known:
            raise NotApplicable("no hull: known by its argmax alone")

    def _distance(self, point: np.ndarray) -> float:
        """L1 distance of a point to the projection of an extended formulation."""
        s = self.structure
        for p in s.parameters:
            p.value = self.values[p.name()]
        distance = cp.norm1(cp.vec(s.variable, order="C") - point)
        problem = cp.Problem(cp.Minimize(distance), s.constraints)  # type: ignore[arg-type]
        return float(problem.solve(canon_backend=backend(problem)))  # type: ignore[arg-type]

    def vertices_are_extreme(self) -> tuple[float, float, Input]:
        """1 where a vertex is listed twice, or in the hull of others (an integer point inside is one of X if
        ``integral=False``: there, only the former)."""
        points = self.points
        scaled = ((points - points.mean(0)) / self.extent.length).numpy()
        same = np.unique(np.round(scaled / 1e-9), axis=0, return_index=True)[1]
        wrong = np.ones(len(points), bool)
        wrong[same] = False
        if not wrong.any() and self.structure.integral:
            wrong = ~are_extreme(scaled)
        return float(wrong.any()), 0.5, self._vertex(points[int(wrong.argmax())])

    def hull_is_tight(self) -> tuple[float, float, Input]:
        """Support function of the hull against the vertices': along the normals of conv(X), where that is small; of
        the hull's extreme points on the grid of X's coordinates that X lacks; in random, sparse and coordinate
        directions, and along rows."""
        self._need_hull()
        size, s = self.structure.event_size, self.structure
        rng = np.random.default_rng(self.seed)
        dense = rng.normal(size=(64, size))
        axes, ones = np.eye(size), np.ones((1, size))
        directions = np.vstack([dense, dense * (rng.random(dense.shape) < 0.3), axes, -axes, ones, -ones])
        if self._numbers is not None:
            directions = np.vstack([directions, along_rows(self._numbers, self.seed)])
        if s.has_vertices():
            points = self.points.numpy()
            directions = np.vstack([directions, facet_normals(points), self._lacked(points)])
            reached = (directions @ points.T).max(axis=1)
        elif s.overrides("argmax") and s.integral:
            directions = np.vstack([directions, self._lacked(None)])
            answers = s.argmax(torch.from_numpy(directions).reshape(-1, *s.event_shape), **self.parameters)
            reached = (directions * answers.reshape(directions.shape).numpy()).sum(1)
        elif not s.integral:
            raise NotApplicable("integral=False: the hull may be loose")
        elif not self.whole_numbers:
            raise NotApplicable("neither vertices() nor a hull in whole numbers: X is what the hull says")
        else:
            reached = None
        best = self.support(directions)
        excess = np.zeros(len(directions))
        if reached is not None:
            room = np.abs(directions).max(axis=1) * (self.extent.reach + 1e3 * _FEASIBILITY)
            excess = (np.einsum("ij,ij->i", directions, best) - reached) / np.maximum(room, 1e-300)
        if self.whole_numbers and not s.has_vertices():  # extreme points must be integer
            excess = np.maximum(excess, np.abs(best - np.round(best)).max(axis=1))
        worst = int(excess.argmax())
        direction = torch.from_numpy(directions[worst]).reshape(s.event_shape)
        return float(excess[worst]), 1e-6, Input(f"direction {listed(direction)}", direction=direction)

    def integrality(self) -> tuple[float, float, Input]:
        """How much further the hull reaches than conv(X), in parts of its width; told, not judged."""
        directions = directions_of(self.structure, _RANDOM, self.seed, self.parameters)
        found = gaps(self.structure, directions, self.parameters)
        worst = int(found.argmax())
        return float(found[worst]), math.inf, Input("", direction=directions[worst])

    def _lacked(self, points: np.ndarray | None) -> np.ndarray:
        """Directions that extreme points of the hull maximise, those that X lacks, ``(count, size)``: at most 64."""
        hull, size = self._numbers, self.structure.event_size
        nothing = np.zeros((0, size))
        if hull is None or hull.lower.size != size or not self.structure.integral:
            return nothing
        if points is None:
            if not self.structure.binary:
                return nothing
            levels = [np.array([0.0, 1.0])] * size
        else:
            levels = [np.unique(np.round(column, 12)) for column in points.T]
        found, normals = extreme_points(hull, levels)
        if points is not None:
            apart = np.abs(found[:, None] - points[None]).max(axis=2) if len(found) * len(points) < 1e5 else None
            lacked = _not_among(found, points) if apart is None else apart.min(axis=1, initial=np.inf) > 1e-9
            return normals[lacked][:64]
        if not len(found):
            return nothing
        answers = self.structure.argmax(torch.from_numpy(normals).reshape(-1, *self.structure.event_shape))
        return normals[np.abs(answers.reshape(found.shape).numpy() - found).max(axis=1) > 1e-9][:64]

    def support(self, directions: np.ndarray) -> np.ndarray:
        """Points of the hull (of X where ``integral=False``) that go furthest."""
        s = self.structure
        values: Any = [self.values] * len(directions) if s.parameters else None
        hull = s.declared_hull
        return (hull.oracle if s.integral else hull.integer_oracle)(directions, values)


def _not_among(found: np.ndarray, points: np.ndarray) -> np.ndarray:
    key = np.random.default_rng(0).normal(size=points.shape[1])
    known, asked = np.sort(points @ key), found @ key
    place = np.searchsorted(known, asked - 1e-9 * (1 + np.abs(asked))).clip(max=len(known) - 1)
    return np.abs(known[place] - asked) > 2e-9 * (1 + np.abs(asked))
