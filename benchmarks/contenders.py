"""Who is measured: our paths, plain cvxpylayers with its defaults, and peers that do the same work."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable

import cvxpy as cp
import torch
from cvxpylayers.torch.cvxpylayer import CvxpyLayer

import polytopes
import sst_cvx as sst

#: (utilities (batch, *event_shape) float64, temperature) -> soft argmax
Contender = Callable[[torch.Tensor, float], torch.Tensor]


def plain_cvxpylayers(structure: sst.Structure, regularizer: sst.Regularizer) -> Contender:
    """The same problem as a CvxpyLayer with default settings: what one would write without this library."""
    f, constraints = regularizer.program(structure)
    u, t = cp.Parameter(structure.event_shape), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(t * f - cp.sum(cp.multiply(u, structure.variable))), constraints)
    layer = CvxpyLayer(problem, parameters=[u, t], variables=[structure.variable])

    def solve(utilities: torch.Tensor, temperature: float) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return layer(utilities, torch.tensor(temperature, dtype=utilities.dtype))[0]

    return solve


def ours(structure: sst.Structure, regularizer: sst.Regularizer, with_layer: bool) -> dict[str, Contender]:
    """The path that "auto" takes, and the layer by each of its engines."""
    soft = sst.SoftArgmax(structure, regularizer)
    found: dict[str, Contender] = {soft.path: soft}
    if with_layer:
        found["layer"] = sst.SoftArgmax(structure, regularizer, path="layer")
        if importlib.util.find_spec("moreau"):
            found["layer (Moreau)"] = sst.SoftArgmax(structure, regularizer, path="layer", solver="MOREAU")
    return found


def peers(structure: sst.Structure, regularizer: sst.Regularizer) -> dict[str, Contender]:
    """Functions of entmax and POT that compute this pair."""
    found: dict[str, Contender] = {}
    kind = type(regularizer)
    if importlib.util.find_spec("entmax"):
        import entmax

        if isinstance(structure, polytopes.OneHot) and kind is sst.Euclidean:
            found["entmax sparsemax"] = lambda u, t: entmax.sparsemax(u / t, dim=-1)
            found["entmax sparsemax_bisect"] = lambda u, t: entmax.sparsemax_bisect(u / t, dim=-1)
        if isinstance(structure, polytopes.OneHot) and kind is sst.TsallisEntropy:
            # entmax's argument is scaled by alpha - 1 as in the paper, which is ours
            found["entmax entmax15"] = lambda u, t: entmax.entmax15(u / t, dim=-1)
            found["entmax entmax_bisect"] = lambda u, t: entmax.entmax_bisect(u / t, alpha=1.5, dim=-1)
        if isinstance(structure, polytopes.KSubset) and kind is sst.Euclidean:
            k = structure.k  # sum x <= k: binding once every utility is shifted above 1
            found["entmax budget_bisect"] = lambda u, t: entmax.budget_bisect(
                (u - u.amin(-1, keepdim=True)) / t + 1, budget=k, dim=-1
            )
    if importlib.util.find_spec("ot") and isinstance(structure, polytopes.Matching) and kind is sst.CategoricalEntropy:
        found |= {
            "POT sinkhorn_log, each": _sinkhorn_each(structure.n),
            "POT solve_batch": _sinkhorn_batch(structure.n),
        }
    return found


def _sinkhorn_each(n: int) -> Contender:
    import ot

    def solve(u: torch.Tensor, t: float) -> torch.Tensor:
        uniform = torch.full((n,), 1 / n, dtype=u.dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plans = [ot.sinkhorn(uniform, uniform, -m, t, method="sinkhorn_log", stopThr=1e-10) for m in u]
        return n * torch.stack(plans)  # type: ignore[arg-type]

    return solve


def _sinkhorn_batch(n: int) -> Contender:
    import ot

    def solve(u: torch.Tensor, t: float) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return n * ot.solve_batch(-u, reg=t, tol=1e-10, grad="autodiff").plan

    return solve
