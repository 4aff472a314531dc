"""Soft ranks, sorts and top-k masks of vectors, in one call: what torchsort's users look for, over the library.

Blondel, Teboul, Berthet, Djolonga, "Fast Differentiable Sorting and Ranking" (ICML 2020). With temperature e,
``soft_rank(u, e)`` and ``soft_sort(u, e)`` are torchsort's ``soft_rank`` and ``soft_sort`` of
``regularization="l2", regularization_strength=e``; with ``sst.CategoricalEntropy()``, ``soft_rank`` is its "kl". Here
they take any batch shape, float16 to float64, and temperatures that are differentiated, one a row. What is to be
compiled calls ``soft_rank`` and ``soft_top_k`` once before, for its sizes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch

import sst_cvx as sst
from polytopes.k_subset import KSubset
from polytopes.kernels.isotonic import project_sorted
from polytopes.permutahedron import Permutahedron
from sst_cvx.arguments import check_finite, check_size, check_temperature
from sst_cvx.host import may_ask
from sst_cvx.once import constants, without_autocast

_MOST = 64
_KEPT: dict[Hashable, sst.SoftArgmax] = {}  # each keeps its regularizer, whose id is then its own
_LOCK = threading.Lock()
_EUCLIDEAN = sst.Euclidean()


def soft_rank(
    u: torch.Tensor,
    temperature: float | torch.Tensor = 1.0,
    regularizer: sst.Regularizer = _EUCLIDEAN,
    descending: bool = False,
) -> torch.Tensor:
    """Ranks 1, ..., n of the entries of u, relaxed: argmax { <u, x> - t f(x) } over the hull of their permutations.

    Rank 1 is the smallest entry's and n the largest's (``descending``: the other way round). At low temperatures they
    are exact, at high ones all are (n + 1) / 2; ranks of equal entries are equal. For many ranks of one regularizer,
    give the same instance each time.

    Args:
        u: ``(*batch, n)``, n >= 1, floating-point.
        temperature: positive, as in ``SoftArgmax``. In units of u: neighbours further apart have whole ranks.
        regularizer: any that ``SoftArgmax`` takes over ``Permutahedron``.

    Returns:
        ``(*batch, n)``, of the dtype and on the device of u.

    Raises:
        TypeError, ValueError, SolveError: as ``SoftArgmax``.
    """
    n = _size(u)
    return _soft(_ranks, regularizer, n)(-u if descending else u, temperature)


def soft_sort(u: torch.Tensor, temperature: float | torch.Tensor = 1.0, descending: bool = False) -> torch.Tensor:
    """The entries of u in order, relaxed: argmax { <(1, ..., n), x> - t/2 x'x } over the hull of permutations of u.

    From the smallest (``descending``: from the largest). At low temperatures exact, at high ones all are the mean.
    Differentiable in u and the temperature, any number of times.

    Args:
        u: ``(*batch, n)``, n >= 1, floating-point.
        temperature: positive; a number, or a tensor that broadcasts to ``batch``. In ranks a unit of u: entries further
            apart than 1 / t are not mixed.

    Returns:
        ``(*batch, n)``, of the dtype and on the device of u. Where the host may not be asked, NaN for rows that are not
        finite.

    Raises:
        TypeError, ValueError: arguments of a wrong type or shape, or not finite.
    """
    n = _size(u)
    with without_autocast(u.device.type):
        _, t = check_temperature(temperature, u.double(), u.shape[:-1], 1)
        if may_ask(u):
            check_finite(u, "utilities")
        places = torch.arange(n, 0, -1, dtype=torch.float64, device=u.device)
        s = u.double().sort(-1, descending=True).values
        x = project_sorted((places / t).expand_as(s), s)
        if not may_ask(u):
            right = torch.isfinite(u).all(-1, keepdim=True) & (torch.as_tensor(t, device=u.device) > 0)
            x = torch.where(right, x, torch.nan)
        return (x if descending else x.flip(-1)).to(u.dtype)


def soft_top_k(
    u: torch.Tensor, k: int, temperature: float | torch.Tensor = 1.0, regularizer: sst.Regularizer = _EUCLIDEAN
) -> torch.Tensor:
    """Which entries of u are the k largest, relaxed: in [0, 1], of sum k; the soft argmax over ``KSubset(n, k)``.

    Args:
        u: ``(*batch, n)``, n >= 1, floating-point.
        k: between 0 and n.
        temperature: positive, as in ``SoftArgmax``.
        regularizer: any that ``SoftArgmax`` takes over ``KSubset``. ``sst.Euclidean()``: sparse;
            ``sst.BinaryEntropy()``, ``sst.ExponentialFamilyEntropy()``: no entry is exactly 0.

    Returns:
        ``(*batch, n)``, of the dtype and on the device of u.

    Raises:
        TypeError, ValueError, SolveError: as ``SoftArgmax``; a k that is no integer between 0 and n.
    """
    n = _size(u)
    return _soft(KSubset, regularizer, n, check_size("k", k, 0, n))(u, temperature)


def _size(u: Any) -> int:
    if not isinstance(u, torch.Tensor) or not u.is_floating_point():
        what = u.dtype if isinstance(u, torch.Tensor) else type(u).__name__
        raise TypeError(f"utilities must be a floating-point tensor, got {what}.")
    if not u.dim() or not u.shape[-1]:
        raise ValueError(f"utilities must be (*batch, n) with n >= 1, got shape {tuple(u.shape)}.")
    return u.shape[-1]


def _ranks(n: int) -> Permutahedron:
    return Permutahedron(torch.arange(1, n + 1))


def _soft(structure: Callable[..., sst.Structure], regularizer: sst.Regularizer, *sizes: int) -> sst.SoftArgmax:
    """The soft argmax, the latest of which are kept: by sizes and by what the regularizer is, or, if it has more than
    numbers, which."""
    if not isinstance(regularizer, sst.Regularizer):
        raise TypeError(f"regularizer must be an sst.Regularizer, got {regularizer!r}.")
    state = tuple(regularizer.__dict__.items())
    plain = all(value is None or isinstance(value, (int, float, tuple)) for _, value in state)
    key = (structure.__name__, sizes, type(regularizer), state if plain else id(regularizer))
    made = _KEPT.get(key)
    if made is not None:
        return made
    if torch.compiler.is_compiling():
        raise NotImplementedError(
            "call it once for this size before it is compiled: a SoftArgmax cannot be built there."
        )
    with constants():
        made = sst.SoftArgmax(structure(*sizes), regularizer)
    with _LOCK:
        _KEPT[key] = made
        while len(_KEPT) > _MOST:
            del _KEPT[next(iter(_KEPT))]
    return made
