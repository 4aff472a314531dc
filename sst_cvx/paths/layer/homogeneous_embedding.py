"""Derivative and Newton refinement of a cone program's solution, by its homogeneous embedding.

With z = (x, y - s, 1) and Pi the projection onto R^n x K* x R_+, a solution is a zero of

    N(z) = (Q - I) Pi(z) + z,    Q = [[0, A', c], [-A, 0, b], [-c', -b', 0]],

and DN = (Q - I) DPi + I gives Newton steps (Busseti, Moursi, Boyd, "Solution refinement at regular points of conic
problems", 2019) and the derivative of x (Agrawal et al., "Differentiating through a cone program", 2019).

DPi comes from the pair (s, y) in closed form. Differentiating a numerical projection, as diffcp does, is wrong by any
factor for exponential cones with entries near 0, that is for entropies at low temperatures: errors of 0.3 to 1e4 were
measured where the closed form is right to 1e-7.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import diffcp
import numpy as np
import scipy.linalg
import scipy.sparse as sp
from diffcp import _diffcp  # pyright: ignore[reportAttributeAccessIssue]
from diffcp import cones as cone_library
from diffcp.cone_program import pi

from sst_cvx.paths.layer import exponential_cone

_DENSE_LIMIT = 250  # rows + columns up to which DN is factorised densely
_LARGEST = 1e3  # a larger solution of a system of order 1 lies along a null vector, whose x-part is zero but for errors
_REFINED = 1e-7  # residual N below which refinement has converged


class ConeProgram:
    """min c'x subject to A x + s = b, s in K, restricted to the rows in ``keep``; cones in diffcp's dictionary."""

    def __init__(self, A: sp.csc_matrix, b: np.ndarray, c: np.ndarray, cones: dict[str, Any], keep: np.ndarray):
        self.keep, self.entries = keep, keep[A.indices]
        counts = np.add.reduceat(np.append(self.entries, False), A.indptr[:-1]) * (np.diff(A.indptr) > 0)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        rows = (np.cumsum(keep) - 1)[A.indices[self.entries]]
        self.A = sp.csc_matrix((A.data[self.entries], rows, indptr), shape=(int(keep.sum()), c.size))
        self.b, self.c = b[keep], c.copy()
        self.cones = cones | {"z": cones.get("z", 0) - int((~keep).sum())}

    def solve(self, **options: Any) -> dict[str, Any]:
        """Run an engine of diffcp; its warnings of inaccuracy are left to the check of the residual."""
        A = self.A.copy()
        A.eliminate_zeros()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return diffcp.solve_internal(A, self.b.copy(), self.c.copy(), self.cones, **options)

    def expand(self, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y, s of all rows: dropped equalities have multiplier and slack 0."""
        full = np.zeros((2, self.keep.size))
        full[:, self.keep] = y, s
        return x, full[0], full[1]

    def expand_gradient(self, dA: np.ndarray, db: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cotangents of the stored entries of the whole A and of the whole b."""
        full_dA, full_db = np.zeros(self.entries.size), np.zeros(self.keep.size)
        full_dA[self.entries], full_db[self.keep] = dA, db
        return full_dA, full_db


class Embedding:
    """A point (x, y, s) of a cone program: refine it, differentiate it."""

    def __init__(self, program: ConeProgram, result: dict[str, Any]):
        self.program = program
        self.x, self.y, self.s = result["x"], result["y"], result["s"]
        self._cones = cone_library.parse_cone_dict(program.cones)
        A, b, c = program.A, program.b[:, None], program.c[:, None]
        self._Q = sp.bmat([[None, A.T, c], [-A, None, b], [-c.T, -b.T, None]], format="csc")
        self._solver: Any = None

    def _z(self) -> np.ndarray:
        return np.concatenate([self.x, self.y - self.s, [1.0]])

    def _residual(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """N(z), and Pi(z)."""
        n = self.x.size
        projected = pi((z[:n], z[n:-1], z[-1:]), self._cones)
        if self.program.cones.get("ep"):  # the last rows, more exactly
            last = slice(-1 - 3 * self.program.cones["ep"], -1)
            start = slice(last.start + 1, None)
            s, y = (v[start].reshape(-1, 3) for v in (self.s, self.y))
            _, dual, converged = exponential_cone.project(-z[last].reshape(-1, 3), s, y)
            projected[last] = np.where(converged[:, None], dual, projected[last].reshape(-1, 3)).ravel()
        return self._Q @ projected - projected + z, projected

    def error(self) -> float:
        """Size of N at the point."""
        return float(np.abs(self._residual(self._z())[0]).max())

    def refine(self, steps: int) -> bool:
        """Newton steps on N as long as it falls; undone, and False, unless it ends below 1e-7."""
        found, z = (self.x, self.y, self.s), self._z()
        if not np.isfinite(z).all():
            return False
        residual, _ = self._residual(z)
        size = np.abs(residual).max()
        for _ in range(steps):
            if size <= 1e-14:
                break
            z = z - self._solve(residual)
            if not np.isfinite(z).all() or z[-1] <= 0.5:
                break
            z = z / z[-1]
            residual, projected = self._residual(z)
            if not np.abs(residual).max() < size:
                break
            size, n = np.abs(residual).max(), self.x.size
            self.x, self.y, self._solver = z[:n], projected[n:-1], None
            self.s = self.y - z[n:-1]
        if size > _REFINED:
            (self.x, self.y, self.s), self._solver = found, None
        return bool(size <= _REFINED)

    def adjoint(self, dx: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cotangent of x to those of (the stored entries of A, b, c)."""
        n = self.x.size
        r = self._solve(np.concatenate([dx, np.zeros(self.y.size), [-(self.x @ dx)]]), transposed=True)
        projected = np.concatenate([self.x, self.y, [1.0]])
        rows = self.program.A.indices
        columns = np.repeat(np.arange(n), np.diff(self.program.A.indptr))
        dA = projected[columns] * r[rows + n] - projected[n + rows] * r[columns]
        dA, db = self.program.expand_gradient(dA, self.y * r[-1] - r[n:-1])
        return dA, db, self.x * r[-1] - r[:n]

    def _solve(self, rhs: np.ndarray, transposed: bool = False) -> np.ndarray:
        if self._solver is None:
            self._solver = _Factor(self._derivative(), self._z())
        return self._solver.solve(rhs, transposed)

    def _derivative(self) -> np.ndarray | sp.csc_matrix:
        """DN = (Q - I) DPi + I at the point, dense if small."""
        n, size = self.x.size, self.x.size + self.y.size + 1
        diagonal, blocks = projection_derivative(self.y, self.s, self.program.cones)
        diagonal = np.concatenate([np.ones(n), diagonal, [1.0]])
        if size > _DENSE_LIMIT:
            identity = sp.identity(size, format="csc")
            return sp.csc_matrix((self._Q - identity) @ _block_diagonal(diagonal, blocks, n) + identity)
        W = self._Q.toarray()
        W.flat[:: size + 1] -= 1.0
        M = W * diagonal
        for at, block in blocks:
            columns = slice(n + at, n + at + len(block))
            M[:, columns] = W[:, columns] @ block
        M.flat[:: size + 1] += 1.0
        return M


class _Factor:
    """Solves with M = DN(z) and its transpose. N is homogeneous, so M z = 0: the term z z' / |z|^2 mends that.

    Small systems are factorised densely, larger ones bordered and sparse.
    """

    def __init__(self, M: np.ndarray | sp.csc_matrix, z: np.ndarray):
        z = z / np.linalg.norm(z)
        self._dense = isinstance(M, np.ndarray)
        self._lu: Any = None
        self._M: Any = None
        if not np.isfinite(M if isinstance(M, np.ndarray) else M.data).all():  # SuperLU crashes; solve returns NaN
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # singular: seen by solve
            if isinstance(M, np.ndarray):
                self._M = M + np.outer(z, z)
                self._lu = scipy.linalg.lu_factor(self._M, check_finite=False)
            else:
                border = sp.csc_matrix(z[:, None])
                self._M = sp.bmat([[M, border], [border.T, -sp.identity(1)]], format="csc")
                # SuperLU (SciPy 1.16) can crash on structurally singular matrices: every diagonal entry gets a digit
                # that the check of the answer does not see.
                shifted = (self._M + 1e-14 * sp.identity(self._M.shape[0])).tocsc()
                with contextlib.suppress(RuntimeError):  # exactly singular
                    self._lu = sp.linalg.splu(shifted)

    def solve(self, rhs: np.ndarray, transposed: bool) -> np.ndarray:
        """M^-1 rhs or M^-T rhs. Where active rows depend, the minimum-norm solution: x's derivative is the same."""
        size = rhs.size
        if self._M is None:
            return np.full(size, np.nan)
        M = self._M.T if transposed else self._M
        rhs = np.append(rhs, np.zeros(M.shape[0] - size))
        with np.errstate(all="ignore"):
            answer = self._by_factor(rhs, transposed)
            accurate = np.abs(M @ answer - rhs).max() <= 1e-9 * (1 + np.abs(rhs).max())
        if not accurate or np.abs(answer).max() > _LARGEST * (1 + np.abs(rhs).max()):
            answer = (
                np.linalg.lstsq(M, rhs, rcond=1e-12)[0]
                if self._dense
                else sp.linalg.lsmr(M, rhs, atol=1e-14, btol=1e-14, maxiter=20 * rhs.size)[0]
            )
        return answer[:size]

    def _by_factor(self, rhs: np.ndarray, transposed: bool) -> np.ndarray:
        if self._lu is None:
            return np.full(rhs.shape, np.nan)
        if self._dense:
            return scipy.linalg.lu_solve(self._lu, rhs, trans=int(transposed), check_finite=False)
        return self._lu.solve(rhs, trans="T" if transposed else "N")


def projection_derivative(
    y: np.ndarray, s: np.ndarray, cones: dict[str, Any]
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Derivative of the projection onto K* at y - s, from the complementary pair (s in K, y in K*).

    Returns:
        Its diagonal where it is diagonal (zero elsewhere), and (first row, dense block) for the other cones.
    """
    diagonal = np.zeros(y.size)
    at = cones.get("z", 0)
    diagonal[:at] = 1.0
    part = slice(at, at + cones.get("l", 0))
    diagonal[part] = y[part] > s[part]
    at, blocks = part.stop, []
    for size in cones.get("q", []):
        blocks.append((at, _second_order(y[at : at + size] - s[at : at + size])))
        at += size
    for order in cones.get("s", []):
        size = order * (order + 1) // 2
        operator = _diffcp.dprojection(
            y[at : at + size] - s[at : at + size], cone_library.parse_cone_dict_cpp([("s", [order])]), True
        )
        blocks.append((at, np.column_stack([operator.matvec(e) for e in np.eye(size)])))
        at += size
    for i in range(at, at + 3 * cones.get("ep", 0), 3):
        blocks.append((i, exponential_cone.derivative(s[i : i + 3], y[i : i + 3])))
    return diagonal, blocks


def _block_diagonal(diagonal: np.ndarray, blocks: list[tuple[int, np.ndarray]], offset: int) -> sp.csc_matrix:
    """The same as one sparse matrix."""
    everywhere = np.arange(diagonal.size)
    values, rows, columns = [diagonal], [everywhere], [everywhere]
    for at, block in blocks:
        i, j = np.indices(block.shape).reshape(2, -1) + offset + at
        values.append(block.ravel())
        rows.append(i)
        columns.append(j)
    triplets = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sp.csc_matrix(triplets, shape=(diagonal.size, diagonal.size))


def _second_order(v: np.ndarray) -> np.ndarray:
    """Of the projection onto {(t, x): |x| <= t}, which is its own dual."""
    t, x = v[0], v[1:]
    norm = np.linalg.norm(x)
    if norm <= t:
        return np.eye(v.size)
    if norm <= -t:
        return np.zeros((v.size, v.size))
    d, ratio = x / norm, t / norm
    below = np.hstack([d[:, None], (1 + ratio) * np.eye(x.size) - ratio * np.outer(d, d)])
    return 0.5 * np.vstack([np.concatenate([[1.0], d]), below])
