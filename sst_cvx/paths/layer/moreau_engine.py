"""Moreau as the engine of CvxpyLayer (Apache-2.0; Linux x86-64 and macOS arm64; ``pip install 'sst-cvx[moreau]'``).

``CvxpyLayer(..., solver="MOREAU")`` must not be used with moreau 0.4.1: CVXPY then turns sign constraints into direct
cones that cvxpylayers 1.2.0 does not pass on, and points outside the hull come back. Canonicalising for Clarabel keeps
every constraint as a row of A. The interior-point method is asked for by name: "auto" takes an active-set method on
small quadratic programs, which returned zeros on redundant equalities.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from sst_cvx.errors import SolveError
from sst_cvx.paths.layer.engine import ConicSolver


def available() -> bool:
    """Whether Moreau is installed."""
    return importlib.util.find_spec("moreau") is not None


class MoreauSolver(ConicSolver):
    """Moreau: batched interior point with quadratic objectives, exponential and power cones, and its own backward.

    Options: fields of ``moreau.IPMSettings`` (``tol_gap_abs``, ...) and ``max_iter``, ``time_limit``, ``verbose``.
    """

    name = "Moreau"
    canon_solver = "CLARABEL"
    supports_quad_obj = True

    def __init__(self, options: dict[str, Any] | None = None):
        super().__init__(options)
        if not available():
            raise ImportError("solver='MOREAU' needs moreau: pip install 'sst-cvx[moreau]'.")

    def setup(self, ctx: Any) -> None:
        super().setup(ctx)
        unsupported = {key for key in ("s", "pnd") if self.program.cones.get(key)}
        if unsupported:
            raise ValueError("the Moreau adapter has no semidefinite cones: use solver='DIFFCP'.")
        self._A_order, self._A_csr = _csr_order(self.program.A_indices, self.program.A_indptr, self.program.A_shape)
        n = self.program.A_shape[1]
        self._P_order, self._P_csr = _csr_order(self.program.P_indices, self.program.P_indptr, (n, n))

    def _solver(self) -> Any:
        moreau: Any = importlib.import_module("moreau")
        solver: Any = importlib.import_module("moreau.torch").Solver
        cones = self.program.cones
        top = {key: self.options[key] for key in ("max_iter", "time_limit", "verbose") if key in self.options}
        ipm = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
        ipm |= {key: value for key, value in self.options.items() if key not in top}
        m, n = self.program.A_shape
        return solver(
            n=n,
            m=m,
            P_row_offsets=torch.from_numpy(self._P_csr[1].astype(np.int64)),
            P_col_indices=torch.from_numpy(self._P_csr[0].astype(np.int64)),
            A_row_offsets=torch.from_numpy(self._A_csr[1].astype(np.int64)),
            A_col_indices=torch.from_numpy(self._A_csr[0].astype(np.int64)),
            cones=moreau.Cones(
                num_zero_cones=cones.get("z", 0),
                num_nonneg_cones=cones.get("l", 0),
                so_cone_dims=list(cones.get("q", [])),
                num_exp_cones=cones.get("ep", 0),
                power_alphas=list(cones.get("p", [])),
            ),
            settings=moreau.Settings(
                solver="ipm", device="cpu", enable_grad=True, ipm_settings=moreau.IPMSettings(**ipm), **top
            ),
        )

    def _solve(self, P, c, A, b, needs_grad):
        batch = len(c)
        P_values = np.zeros((batch, 0)) if P is None else P[:, self._P_order]
        inputs = [torch.from_numpy(np.ascontiguousarray(v)) for v in (P_values, A[:, self._A_order], c, b)]
        solver = self._solver()
        with torch.set_grad_enabled(needs_grad):
            for value in inputs:
                value.requires_grad_(needs_grad)
            solution = solver.solve(*inputs)
        status = solver.info.status
        words = [str(w) for w in (status if isinstance(status, (list, tuple)) else [status] * batch)]
        x, y, s = (v.detach().numpy().reshape(batch, -1) for v in (solution.x, solution.z, solution.s))
        return x, y, s, words, (solution.x, solution.z, inputs)

    def _differentiate(self, dx, dy, state):
        x, y, inputs = state
        cotangents = [torch.from_numpy(dx.copy()), torch.from_numpy(dy.copy())]
        try:
            gradients = torch.autograd.grad([x, y], inputs, cotangents, allow_unused=True, retain_graph=True)
        except BaseException as error:  # its Rust panics derive from BaseException only
            if type(error).__name__ != "PanicException":
                raise
            raise SolveError(f"Moreau's backward panicked ({error}): use solver='DIFFCP'.") from None
        dP, dA, dc, db = (
            (torch.zeros_like(v) if g is None else g).numpy() for g, v in zip(gradients, inputs, strict=True)
        )
        if not all(np.isfinite(g).all() for g in (dP, dA, dc, db)):
            raise SolveError("Moreau returned a gradient that is not finite: use solver='DIFFCP'.")
        dA, dP = dA[:, np.argsort(self._A_order)], dP[:, np.argsort(self._P_order)]
        return (dP if self.program.P_indices.size else None), dc, dA, db

    def _accept(self, residual: float, status: str) -> bool:
        return status in ("Solved", "AlmostSolved") and residual <= self.tolerance


def _csr_order(indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]):
    """Where each CSR entry stands in CSC order, and the CSR (column indices, row offsets)."""
    csr = sp.csc_array((np.arange(1, indices.size + 1), indices, indptr), shape=shape).tocsr()
    csr.sort_indices()
    return csr.data - 1, (csr.indices, csr.indptr)
