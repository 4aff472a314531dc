"""Times from interleaved runs, and errors against independent truths."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.benchmark import Timer

import polytopes
import sst_cvx as sst
from benchmarks.cases import Case
from benchmarks.contenders import Contender
from tests.oracles import SLOPES, pullback, truth


def call(contender: Contender, u: torch.Tensor, v: torch.Tensor, t: float, backward: bool) -> torch.Tensor:
    """One forward (and backward); returns the gradient or the value."""
    if not backward:
        with torch.no_grad():
            return contender(u, t)
    leaf = u.detach().requires_grad_()
    (g,) = torch.autograd.grad((contender(leaf, t) * v).sum(), leaf)
    return g


def utilities(structure: sst.Structure, batch: int, count: int = 2) -> torch.Tensor:
    """Standard normal utilities, cotangents, ...: ``(count, batch, *event_shape)``, float64."""
    generator = torch.Generator().manual_seed(batch)
    return torch.randn((count, batch, *structure.event_shape), dtype=torch.float64, generator=generator)


def times(
    case: Case, contenders: dict[str, Contender], batch: int, seconds: float, t: float = 0.5
) -> dict[str, tuple[float, float] | str]:
    """Median seconds of forward, and of forward plus backward; or why there are none."""
    u, v = utilities(case.structure, batch)
    timers: dict[tuple[str, bool], tuple[Timer, int]] = {}
    found: dict[str, tuple[float, float] | str] = {}
    for name, contender in contenders.items():
        try:
            once = _once(contender, u, v, t)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {str(error)[:60]}"
            continue
        for backward in (False, True):
            timer = Timer(
                "call(c, u, v, t, b)", globals={"call": call, "c": contender, "u": u, "v": v, "t": t, "b": backward}
            )
            timers[name, backward] = timer, max(1, min(50, int(0.02 / once)))
    samples: dict[tuple[str, bool], list[float]] = {key: [] for key in timers}
    start = time.perf_counter()
    for _ in range(9):  # A, B, C, A, B, C, ...: drift of the machine hits all alike
        for key, (timer, number) in timers.items():
            samples[key].append(timer.timeit(number).mean)
        if time.perf_counter() - start > seconds:
            break
    for name, backward in timers:
        if backward:
            found[name] = statistics.median(samples[name, False]), statistics.median(samples[name, True])
    return found


def interleaved(
    calls: dict[str, Callable[[], object]], budget: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of runs A, B, C, A, B, C, ... by the clock until the budget is spent; infinite for one that raises.

    Each is run at least once, and none takes more than its share of the budget otherwise.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    begun = clock()
    while clock() - begun < budget or not all(samples.values()):
        open_ = [name for name, seen in samples.items() if not seen or sum(seen) <= budget / len(calls)]
        if not open_:
            break
        for name in open_:
            start = clock()
            try:
                calls[name]()
                samples[name].append(clock() - start)
            except Exception:
                samples[name].append(float("inf"))
    return samples


def _once(contender: Contender, u: torch.Tensor, v: torch.Tensor, t: float) -> float:
    call(contender, u[:1], v[:1], t, backward=True)
    start = time.perf_counter()
    call(contender, u, v, t, backward=True)
    return time.perf_counter() - start


def errors(case: Case, contender: Contender, t: float, batch: int = 16) -> tuple[float, float] | str:
    """Largest error of the value, and of the vector-Jacobian product times t; or why there is none."""
    u, v = utilities(case.structure, batch)
    expected = reference(case, u, v, t)
    if expected is None:
        return "no truth"
    try:
        x, g = call(contender, u, v, t, backward=False), call(contender, u, v, t, backward=True)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:60]}"
    return float((x - expected[0]).abs().max()), t * float((g - expected[1] / t).abs().max())


def reference(case: Case, u: torch.Tensor, v: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The true value, and t times the true vector-Jacobian product, by code that is not the library's."""
    structure, regularizer = case.structure, case.regularizer
    if type(structure) is sst.Structure:
        return None  # measured against the other engine instead: see the table
    name = type(regularizer).__name__
    if name == "ExponentialFamilyEntropy":
        return _covariance(structure, u / t, v)
    if isinstance(structure, polytopes.Matching):
        x = truth(structure, regularizer, u / t) if structure.n <= 10 else None
        return None if x is None else (x, _matching_pullback(x, v))
    if not isinstance(structure, (polytopes.OneHot, polytopes.KSubset)):
        return None  # the value has an oracle in the tests, the gradient none
    x = truth(structure, regularizer, u / t)
    assert name in SLOPES
    return x, pullback(x, v, name)


def _covariance(structure: sst.Structure, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    if structure.event_size > 30:
        return None
    points = structure.vertices().reshape(-1, structure.event_size)
    p = (u.flatten(1) @ points.T).softmax(-1)
    mean = p @ points
    along = (v.flatten(1) @ points.T) - (v.flatten(1) * mean).sum(1, keepdim=True)
    return mean.reshape(u.shape), ((p * along) @ points - (p * along).sum(1, keepdim=True) * mean).reshape(u.shape)


def _matching_pullback(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """X o (V - alpha 1' - 1 beta') with both sets of multipliers from one dense least-squares solve."""
    n = x.shape[-1]
    jacobian = torch.cat(
        [torch.cat([torch.diag_embed(x.sum(-1)), x], -1), torch.cat([x.mT, torch.diag_embed(x.sum(-2))], -1)], -2
    )
    rhs = torch.cat([(x * v).sum(-1), (x * v).sum(-2)], -1)[..., None]
    both = torch.linalg.pinv(jacobian, rtol=1e-14, hermitian=True) @ rhs
    return x * (v - both[..., :n, :] - both[..., n:, :].mT)
