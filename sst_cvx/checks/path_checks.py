"""The list of checks of one pair: values, derivatives, invariance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from sst_cvx.checks import gradient_checks as gradients
from sst_cvx.checks import invariance_checks as invariance
from sst_cvx.checks import value_checks as values
from sst_cvx.checks.pair import Pair
from sst_cvx.checks.report import Check, Measurement
from sst_cvx.regularizers import Regularizer
from sst_cvx.structure.base import Structure

_SHOWS = "sst.SoftArgmax(structure, regularizer)(u, temperature, **parameters)"


def checks(
    structure: Structure,
    regularizer: Regularizer,
    temperatures: Sequence[float],
    seed: int,
    parameters: dict[str, torch.Tensor],
    must_apply: bool,
) -> list[Check]:
    """Checks of one pair. A pair that no path supports has none, or one that fails if ``must_apply``."""
    try:
        pair = Pair(structure, regularizer, seed, parameters)
    except (ValueError, NotImplementedError) as error:
        return [Check(f"{regularizer!r}: supported", _failing(error), regularizer=regularizer)] if must_apply else []
    label = f"{regularizer!r} by {pair.soft.path}"
    found: list[tuple[str, Measurement]] = []
    for t in temperatures:
        if pair.exponential:
            found.append((f"value = enumeration, t={t:g}", partial(values.forward_against_enumeration, pair, t)))
        else:
            found.append((f"optimality gap, t={t:g}", partial(values.optimality_gap, pair, t)))
        if pair.soft.ways != {"layer"}:
            found.append((f"value = layer, t={t:g}", partial(values.forward_against_layer, pair, t)))
            found.append((f"gradient = layer, t={t:g}", partial(gradients.gradient_against_layer, pair, t)))
        if pair.combinatorial and not pair.exponential:
            found.append((f"value = interior point, t={t:g}", partial(values.forward_against_interior_point, pair, t)))
            found.append(
                (f"gradient = interior point, t={t:g}", partial(gradients.gradient_against_interior_point, pair, t))
            )
        found.append((f"gradient = differences, t={t:g}", partial(gradients.gradient_against_differences, pair, t)))
    if pair.soft.ways == {"active_set"} and getattr(regularizer, "weights", None) is None:
        found.append(("projection", partial(values.projection, pair)))
    found += [
        ("temperature gradient", partial(gradients.temperature_gradient, pair)),
        ("second derivative", partial(gradients.second_derivative, pair)),
        ("limit t -> 0 is the argmax", partial(values.limit_is_argmax, pair)),
        ("batch shapes", partial(invariance.batch_shapes, pair)),
        ("float32", partial(invariance.dtypes, pair)),
        ("ties, zeros, huge ranges", partial(invariance.degenerate, pair)),
        ("forbidden items", partial(invariance.masked, pair)),
    ]
    return [Check(f"{label}: {name}", measurement, _SHOWS, regularizer) for name, measurement in found]


def _failing(error: Exception) -> Measurement:
    def measure() -> tuple[float, float]:
        raise error

    return measure
