"""Declared hulls: quadratic programs beside DAQP, Moreau and plain cvxpylayers; entropies, trees by Martin too."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch

import sst_cvx as sst
from benchmarks.contenders import plain_cvxpylayers
from benchmarks.peers.race import Contest, Row, Way, available, by_rows, by_torch, has, normal
from benchmarks.peers.thresholds import ours
from tests.hulls import grid_paths, k_subset, trees_by_martin


def rows() -> list[Row]:
    quadratic = {
        "declared 10 of 100": lambda: k_subset(100, 10),
        "order ideal of 30": order_ideal,
        "unit flow 6x6": lambda: grid_paths(6),
        "transport 5x5": transport,
    }
    found = [Row(f"{name}, Euclidean", lambda make=make: _quadratic(make())) for name, make in quadratic.items()]
    found.append(Row("declared 10 of 100, categorical", lambda: _entropic(k_subset(100, 10)), 32))
    return found + [
        Row(f"Martin trees of {n}, categorical", lambda n=n: _entropic(trees_by_martin(n)), 32) for n in (6, 10)
    ]


def order_ideal(rows: int = 5, columns: int = 6) -> sst.Structure:
    """Down-sets of a grid: x falls to the right and downwards."""
    place = np.arange(rows * columns).reshape(rows, columns)
    first = np.concatenate([place[:-1].ravel(), place[:, :-1].ravel()])
    second = np.concatenate([place[1:].ravel(), place[:, 1:].ravel()])
    x = cp.Variable(rows * columns)
    return sst.Structure(x, [x >= 0, x <= 1, x[first] >= x[second]])


def transport(side: int = 5) -> sst.Structure:
    """Plans from ``side`` supplies to as many demands."""
    supply, demand = np.arange(1.0, side + 1), np.full(side, (side + 1) / 2)
    x, eye = cp.Variable(side * side), np.eye(side)
    sources, sinks = np.kron(eye, np.ones(side)), np.kron(np.ones(side), eye)
    return sst.Structure(x, [x >= 0, sources @ x == supply, sinks @ x == demand])


@dataclasses.dataclass(frozen=True)
class Program:
    """min x'x / 2 - <u, x> over the hull as Clarabel's canonical form: A x + s = b, s = 0 first, then s >= 0."""

    A: sp.csr_array
    b: np.ndarray
    equalities: int

    @classmethod
    def of(cls, structure: sst.Structure) -> Program:
        x = structure.variable
        problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x)), structure.constraints)
        data = problem.get_problem_data(cp.CLARABEL, solver_opts={"use_quad_obj": True})[0]
        assert data["A"].shape[1] == x.size  # no auxiliary variables
        return cls(sp.csr_array(data["A"]), data["b"], data["dims"].zero)


def _quadratic(structure: sst.Structure) -> Contest:
    program = Program.of(structure)
    f = sst.Euclidean()
    peers = []
    if has("daqp"):
        peers += [by_rows("DAQP", _daqp(program)), _daqp_kept(program)]
    if has("moreau"):
        peers.append(_moreau(program))
    plain = plain_cvxpylayers(structure, f)
    peers.append(by_torch("plain cvxpylayers", lambda u: plain(u, 1.0), largest=32))
    return Contest(
        normal(*structure.event_shape),
        ours(structure, f),
        peers,
        functools.partial(_clarabel, program),
        checked=4,
        missing=available("daqp", "moreau"),
    )


def _daqp_arguments(program: Program) -> tuple:
    """H and what follows f: bounds of one variable as DAQP takes them, the rest as rows."""
    A, n = program.A.toarray(), program.A.shape[1]
    equal = np.arange(len(A)) < program.equalities
    single = ((A != 0).sum(1) == 1) & ~equal
    upper, lower = np.full(n, 1e30), np.full(n, -1e30)
    for row, b in zip(A[single], program.b[single], strict=True):
        (i,) = np.flatnonzero(row)
        if row[i] > 0:
            upper[i] = min(upper[i], b / row[i])
        else:
            lower[i] = max(lower[i], b / row[i])
    rest, right = np.ascontiguousarray(A[~single]), program.b[~single]
    upper = np.concatenate([upper, right])
    lower = np.concatenate([lower, np.where(equal[~single], right, -1e30)])
    sense = np.concatenate([np.zeros(n), 5 * equal[~single]]).astype(np.int32)
    return np.eye(n), (rest, upper, lower, sense)


def _daqp(program: Program) -> Callable[[np.ndarray], np.ndarray]:
    """Every problem from scratch."""
    import daqp

    H, rest = _daqp_arguments(program)
    return lambda u: _solution(daqp.solve(H, -u, *rest))


def _daqp_kept(program: Program) -> Way:
    """Set up once, each problem from the active set of the one before.

    Every other call is for other utilities: the active set kept from the same problem would be the answer.
    """
    import daqp

    H, rest = _daqp_arguments(program)
    model = daqp.Model()
    model.setup(H, np.zeros(len(H)), *rest)

    def solve(u: np.ndarray) -> np.ndarray:
        model.update(f=-u)
        return _solution(model.solve())

    way = by_rows("DAQP, kept", solve)

    def forward(laid: tuple[Iterator[int], torch.Tensor]) -> torch.Tensor:
        calls, u = laid
        return way.forward(u.flip(-1) if next(calls) % 2 else u)

    return dataclasses.replace(way, forward=forward, lay_out=lambda u: (itertools.count(), u))


def _solution(found: tuple) -> np.ndarray:
    x, _, status, _ = found
    if status < 1:
        raise ArithmeticError(f"DAQP: exit flag {status}")
    return np.array(x)


def _moreau(program: Program) -> Way:
    import moreau
    import moreau.torch

    (m, n), A = program.A.shape, program.A
    options = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}

    def solver(enable_grad: bool) -> Any:
        return moreau.torch.Solver(
            n=n,
            m=m,
            P_row_offsets=torch.arange(n + 1),
            P_col_indices=torch.arange(n),
            A_row_offsets=torch.from_numpy(A.indptr.astype(np.int64)),
            A_col_indices=torch.from_numpy(A.indices.astype(np.int64)),
            cones=moreau.Cones(num_zero_cones=program.equalities, num_nonneg_cones=m - program.equalities),
            settings=moreau.Settings(
                solver="ipm", device="cpu", enable_grad=enable_grad, ipm_settings=moreau.IPMSettings(**options)
            ),
        )

    solvers = {flag: solver(flag) for flag in (False, True)}
    data = [torch.ones(n, dtype=torch.float64), torch.from_numpy(A.data)]

    def solve(u: torch.Tensor) -> torch.Tensor:
        P, a = (d.expand(len(u), -1).contiguous() for d in data)
        b = torch.from_numpy(program.b).expand(len(u), -1).contiguous()
        return solvers[u.requires_grad].solve(P, a, -u, b).x

    return by_torch("Moreau", solve)


def _clarabel(program: Program, u: torch.Tensor) -> torch.Tensor:
    """To 1e-12, one by one, and from there the projection onto the rows that are active."""
    import clarabel

    cones = [clarabel.ZeroConeT(program.equalities)] if program.equalities else []
    cones.append(clarabel.NonnegativeConeT(len(program.b) - program.equalities))
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.max_iter = False, 200
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-13
    P = sp.csc_matrix(sp.identity(program.A.shape[1]))
    A = sp.csc_matrix(program.A)
    found = []
    for row in u.numpy():
        solution = clarabel.DefaultSolver(P, -row, A, program.b, cones, settings).solve()
        active = np.asarray(solution.s) < np.asarray(solution.z)
        active[: program.equalities] = True
        rows = program.A.toarray()[active]
        x = row - np.linalg.pinv(rows, rcond=1e-10) @ (rows @ row - program.b[active])
        far = program.A @ x - program.b
        far[: program.equalities] = np.abs(far[: program.equalities])
        found.append(x if far.max() < 1e-10 else np.asarray(solution.x))
    return torch.from_numpy(np.stack(found))


def _entropic(structure: sst.Structure) -> Contest:
    """No truth but ours, by which the others' errors are measured."""
    f = sst.CategoricalEntropy()
    plain = plain_cvxpylayers(structure, f)
    peers = [by_torch("plain cvxpylayers", lambda u: plain(u, 1.0))]
    if has("moreau"):
        peers.append(by_torch("Moreau by our layer", sst.SoftArgmax(structure, f, path="layer", solver="MOREAU")))
    return Contest(normal(*structure.event_shape), ours(structure, f), peers, missing=available("moreau"))
