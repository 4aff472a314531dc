"""Projection onto the exponential cone K = {(r, x, z): x exp(r / x) <= z, x > 0}, and its derivative.

The curved boundary of K and the dual rays complementary to it are

    s = x (rho, 1, e^rho),    y = l (-e^rho, (rho - 1) e^rho, 1),    x, l > 0,    <s, y> = 0,

so projecting p onto K means to solve s - y = p for (x, rho, l). From a nearby pair, Newton's method in (log x, rho,
log l) is exact to rounding, with x of any size. diffcp's own projection is good to about 1e-8 only, and its
derivative is lost for small x: at the entries near 0 that entropies have at low temperatures.
"""

from __future__ import annotations

import numpy as np

_MAX_STEPS = 40


def project(p: np.ndarray, s: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projections of ``p`` (k, 3) onto K, by Newton from the pairs (s, y).

    Returns:
        The projections s and y = s - p, (k, 3) each, and which converged, (k,): those that did not are
        not on the curved boundary, and their rows are meaningless.
    """
    with np.errstate(all="ignore"):
        x = np.maximum(s[:, 1], 1e-200)
        unknowns = np.stack([np.log(x), np.log(np.maximum(s[:, 2], 1e-200) / x), np.log(np.maximum(y[:, 2], 1e-200))])
        scale = 1e-15 * (1 + np.abs(p).max(axis=1))
        best = np.full(len(p), np.inf)
        for _ in range(_MAX_STEPS):
            residual, jacobian = _equations(unknowns, p)
            error = np.abs(residual).max(axis=1)
            if not (error > scale).any() or not (error < best).any():
                break
            best = np.minimum(best, error)
            step = _solve(jacobian, residual)
            step /= np.maximum(1.0, np.abs(step).max(axis=1, keepdims=True))
            unknowns = unknowns - step.T
        log_x, rho, log_l = unknowns
        x, xe, le, multiplier = np.exp(log_x), np.exp(log_x + rho), np.exp(log_l + rho), np.exp(log_l)
        s = np.stack([x * rho, x, xe], axis=1)
        y = np.stack([-le, (rho - 1) * le, multiplier], axis=1)
        residual = np.abs(s - y - p).max(axis=1)
        return s, y, residual <= 1e3 * scale


def _equations(unknowns: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s - y - p, and its Jacobian in (log x, rho, log l)."""
    log_x, rho, log_l = unknowns
    x, xe, le, multiplier = np.exp(log_x), np.exp(log_x + rho), np.exp(log_l + rho), np.exp(log_l)
    residual = np.stack([x * rho + le, x - (rho - 1) * le, xe - multiplier], axis=1) - p
    rows = [[x * rho, x + le, le], [x, -rho * le, -(rho - 1) * le], [xe, xe, -multiplier]]
    return residual, np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def _solve(jacobian: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """3 x 3 systems, columns scaled; zeros where singular."""
    size = np.maximum(np.abs(jacobian).max(axis=1, keepdims=True), 1e-300)
    scaled = jacobian / size
    usable = np.isfinite(scaled).all(axis=(1, 2)) & (np.abs(np.linalg.det(np.nan_to_num(scaled))) > 1e-30)
    scaled[~usable] = np.eye(3)
    step = np.linalg.solve(scaled, residual[..., None])[..., 0] / size[:, 0]
    return np.where(usable[:, None] & np.isfinite(step), step, 0.0)


def derivative(s: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Derivative (3, 3) of the projection onto K* at y - s, for one complementary pair on the curved boundary.

    Moreau: I - DPi_K(s - y). Pi_K minimises 1/2 |q - p|^2 under h(q) = x exp(r / x) - z <= 0; at its solution s with
    multiplier l = y_3, normal n = grad h and Hessian h'' = (E / x) w w', E = z / x, rho = log E, w = (1, -rho, 0):
    dq = (B - B n n'B / n'Bn) dp with B = (I + l h'')^-1 = I - w w' / (x / (l E) + |w|^2).
    """
    x, z, multiplier = max(s[1], 1e-150), max(s[2], 1e-150), max(y[2], np.finfo(float).tiny)
    E = z / x
    rho = np.log(E)
    w = np.array([1.0, -rho, 0.0])
    B = np.eye(3) - np.outer(w, w) / (x / (multiplier * E) + w @ w)
    n = np.array([1.0, 1.0 - rho, -1.0 / E])  # its length does not matter
    Bn = B @ n
    return np.eye(3) - B + np.outer(Bn, Bn) / (n @ Bn)
