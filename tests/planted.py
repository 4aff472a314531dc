"""Forty faults of ten kinds, each with the check that must name it."""

from __future__ import annotations

import itertools

import cvxpy as cp
import torch

import sst_cvx as sst
from polytopes.kernels.threshold import threshold_map
from tests.right_sets import TwoOfFive

HULL, TIGHT = "vertices lie in the hull", "hull is no larger than conv(X)"
LISTED, BEST = "vertices are extreme points, each once", "argmax is a best element of X"
LOG, LOG32 = "log-partition equals enumeration", "log-partition equals enumeration, float32"
DRAWN, GAP, SINGLE = "samples have the right frequencies", "optimality gap", "float32"
SLOPE, SHAPES, AWKWARD = "gradient = differences", "batch shapes", "ties, zeros, huge ranges"


def _grid(n):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=torch.float64)


class _Listed(sst.Structure):
    def __init__(self, points, rows):
        self._points = points
        x = cp.Variable(points.shape[1])
        super().__init__(x, rows(x))

    def vertices(self):
        return self._points

    def argmax(self, u):
        return self._points[(u.double() @ self._points.T).argmax(-1)].to(u)


def _cube_without_a_corner(n):
    """The hull lacks the facet that cuts it off."""
    return _Listed(_grid(n)[:-1], lambda x: [x >= 0, x <= 1])


def _lifted_facet():
    """The facet is there, 1 % too high: the new vertices are on no grid."""
    return _Listed(_grid(4)[:-1], lambda x: [x >= 0, x <= 1, cp.sum(x) <= 3.01])


def _declared(rows):
    return lambda: TwoOfFive(rows)


def _with(**methods):
    return lambda: type(
        "TwoOfFive", (TwoOfFive,), {**methods, "vertices": methods.get("vertices", TwoOfFive.vertices)}
    )()


def _points(change):
    return _with(vertices=lambda self: change(TwoOfFive.vertices(self)))


def _argmax(change):
    return _with(argmax=lambda self, u: change(u, TwoOfFive.argmax(self, u)))


def _log(change):
    return _with(log_partition=lambda self, u: change(u, TwoOfFive.log_partition(self, u)))


def _sample(change):
    return _with(sample=lambda self, u, generator=None: change(self, u, generator))


def _draw(self, u, generator):
    return TwoOfFive.__mro__[1].sample(self, u, generator)


def _far(u):
    return u.abs().amax(-1, keepdim=True) if u.numel() else u.sum(-1, keepdim=True)


def _wrong(u, x):
    """Another element: all moved on by one."""
    return x.roll(1, -1)


def _second_best(u):
    return torch.zeros_like(u).scatter(-1, u.topk(3, -1).indices[..., [0, 2]], 1.0)


def right(u):
    return threshold_map(u, 2, sst.BinaryEntropy())


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return ctx.factor * g, None


def bent(x, by=1e-4):
    """Inside the hull, but off."""
    return x + by * (x.mean(-1, keepdim=True) - x)


def _only(which, u, wrong=lambda x: bent(x, 1e-2)):
    x = right(u)
    return torch.where(which, wrong(x), x)


def _large_batch(u, x, least):
    return bent(x, 1e-3) if u.dim() > 1 and u[..., 0].numel() >= least else x


#: Kind, name: (a structure that has the fault, the check that names it).
STRUCTURES = {
    "hull too large, no upper row": (_declared(lambda x: [x >= 0, x <= 1, cp.sum(x) <= 2]), TIGHT),
    "hull too large, no bounds below": (_declared(lambda x: [x >= -0.01, x <= 1, cp.sum(x) == 2]), TIGHT),
    "hull too large, a 12-cube without a corner": (lambda: _cube_without_a_corner(12), TIGHT),
    "hull too large, a lifted facet": (_lifted_facet, TIGHT),
    "hull too small, upper bound": (_declared(lambda x: [x >= 0, x <= 0.9, cp.sum(x) == 2]), HULL),
    "hull too small, one more row": (_declared(lambda x: [x >= 0, x <= 1, cp.sum(x) == 2, x[0] + x[1] <= 1.99]), HULL),
    "hull too small, an off right side": (_declared(lambda x: [x >= 0, x <= 1, cp.sum(x) == 2 + 1e-6]), HULL),
    "hull too small, one item fixed": (_declared(lambda x: [x >= 0, x <= 1, cp.sum(x) == 2, x[4] == 0]), HULL),
    "vertices: one twice": (_points(lambda v: torch.cat([v, v[3:4]])), LISTED),
    "vertices: a midpoint": (_points(lambda v: torch.cat([v, v[:2].mean(0, keepdim=True)])), LISTED),
    "vertices: the middle": (_points(lambda v: torch.cat([v, v.mean(0, keepdim=True)])), LISTED),
    "vertices: one is missing": (_points(lambda v: v[1:]), TIGHT),
    "argmax: second best": (_argmax(lambda u, x: _second_best(u)), BEST),
    "argmax: beyond 1e5": (_argmax(lambda u, x: torch.where(_far(u) > 1e5, _wrong(u, x), x)), BEST),
    "argmax: below 1e-5": (_argmax(lambda u, x: torch.where(_far(u) < 1e-5, _wrong(u, x), x)), BEST),
    "argmax: in float32": (_argmax(lambda u, x: _wrong(u, x) if u.dtype == torch.float32 else x), BEST),
    "log-partition: off by 1e-8": (_log(lambda u, a: a * (1 + 1e-8)), LOG),
    "log-partition: overflows": (_log(lambda u, a: a.exp().log()), LOG),
    "log-partition: float32 off by 1e-3": (_log(lambda u, a: a + 1e-3 * (u.dtype == torch.float32)), LOG32),
    "log-partition: wrong beyond 500": (_log(lambda u, a: a + 1e-3 * (_far(u)[..., 0] > 500)), LOG),
    "sample: uniform": (_sample(lambda s, u, g: _draw(s, 0 * u, g)), DRAWN),
    "sample: too cold": (_sample(lambda s, u, g: _draw(s, 1.3 * u, g)), DRAWN),
    "sample: one draw for all": (_sample(lambda s, u, g: _draw(s, u.reshape(-1, 5)[0], g).expand_as(u)), DRAWN),
    "sample: outside": (_sample(lambda s, u, g: (u > 0).to(u.dtype)), DRAWN),
}  # fmt: skip

#: Kind, name: (a fast path that has the fault, the check that names it).
PATHS = {
    "value: off by 1e-4": (lambda u: bent(right(u)), GAP),
    "value: below 0.05": (lambda u: _only(_far(u) < 0.05 / 0.3, u), GAP),
    "value: far out": (lambda u: right(u / (1 + 0.01 * _far(u))), "limit t -> 0 is the argmax"),
    "value: overflows": (lambda u: right(u) * (u.exp() / u.exp()), AWKWARD),
    "gradient: 1 % short": (lambda u: _Scaled.apply(right(u), 0.99), SLOPE),
    "gradient: none": (lambda u: right(u).detach() + 0 * u, SLOPE),
    "gradient: near 0": (lambda u: _Scaled.apply(right(u), 0.9 if bool((_far(u) < 0.2).any()) else 1.0), SLOPE),
    "gradient: 5 % in float32": (lambda u: _Scaled.apply(right(u), 0.95 if u.dtype == torch.float32 else 1.0), SINGLE),
    "batch: from 7 on": (lambda u: _large_batch(u, right(u), 7), SHAPES),
    "batch: from 50 on": (lambda u: _large_batch(u, right(u), 50), SHAPES),
    "batch: its mean leaks": (lambda u: right(u + 1e-4 * (u.dim() > 1) * u.detach().mean(0)), SHAPES),
    "batch: order": (lambda u: right(u).flip(0) if u.dim() > 1 else right(u), SHAPES),
    "dtype: float32 beyond 100": (lambda u: _only((_far(u) > 100) & (u.dtype == torch.float32), u), SINGLE),
    "dtype: float32 off by 1e-5": (lambda u: bent(right(u), 1e-4 * (u.dtype == torch.float32)), SINGLE),
    "dtype: float32 near 0": (lambda u: _only((_far(u) < 0.2) & (u.dtype == torch.float32), u), SINGLE),
    "dtype: comes back wide": (lambda u: right(u.double()), SINGLE),
}  # fmt: skip
