"""The regularizers' phi, as loops need them; ``KINDS`` in ``tables`` numbers them."""

from __future__ import annotations

from math import exp, log

from sst_cvx.paths.interior_point.native.inner import inner

EUCLIDEAN, CATEGORICAL, BINARY, TSALLIS = 0, 1, 2, 3
TINY = 2.2250738585072014e-308


@inner
def slope(kind, alpha, x):
    """phi'(x)."""
    if kind == EUCLIDEAN:
        return x
    if kind == CATEGORICAL:
        return log(max(x, TINY)) + 1.0
    if kind == BINARY:
        return log(max(x, TINY)) - log(max(1.0 - x, TINY))
    return (alpha * max(x, 0.0) ** (alpha - 1.0) - 1.0) / (alpha * (alpha - 1.0))


@inner
def curvature(kind, alpha, x):
    """phi''(x)."""
    if kind == EUCLIDEAN:
        return 1.0
    if kind == CATEGORICAL:
        return 1.0 / max(x, TINY)
    if kind == BINARY:
        return 1.0 / max(x * (1.0 - x), TINY)
    return max(x, TINY) ** (alpha - 2.0)


@inner
def inverse_curvature(kind, alpha, x):
    """1 / phi''(x)."""
    if kind == EUCLIDEAN:
        return 1.0
    if kind == CATEGORICAL:
        return x
    if kind == BINARY:
        return x * (1.0 - x)
    return x ** (2.0 - alpha) if x > 0.0 else 0.0


@inner
def inverse_slope(kind, alpha, s):
    """The x with phi'(x) = s."""
    if kind == EUCLIDEAN:
        return s
    if kind == CATEGORICAL:
        return exp(s - 1.0)
    if kind == BINARY:
        return 1.0 / (1.0 + exp(-s))
    return max((alpha - 1.0) * s + 1.0 / alpha, 0.0) ** (1.0 / (alpha - 1.0))


@inner
def value(kind, alpha, x):
    """phi(x)."""
    if kind == EUCLIDEAN:
        return 0.5 * x * x
    if kind == CATEGORICAL:
        return x * log(x) if x > 0.0 else 0.0
    if kind == BINARY:
        return (x * log(x) if x > 0.0 else 0.0) + ((1.0 - x) * log(1.0 - x) if x < 1.0 else 0.0)
    return (max(x, 0.0) ** alpha - x) / (alpha * (alpha - 1.0))
