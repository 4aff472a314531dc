"""Certify a structure and its fast paths against references: enumeration, the layer, and central differences.

report = sst.check(MySet())          # prints a table; report.ok, report.raise_if_failed()
print(report.reproduce(report.failures[0]))      # code that fails in the same way

@pytest.mark.parametrize("check", sst.checks(MySet()), ids=str)
def test_my_set(check):
    check()
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sst_cvx.checks import path_checks, structure_checks
from sst_cvx.checks.report import Check, CheckFailed, Report, Result
from sst_cvx.checks.reproduce import Setting
from sst_cvx.regularizers import (
    BinaryEntropy,
    CategoricalEntropy,
    Euclidean,
    ExponentialFamilyEntropy,
    Regularizer,
    TsallisEntropy,
)
from sst_cvx.structure.base import Structure

__all__ = ["Check", "CheckFailed", "Report", "Result", "check", "checks"]

REGULARIZERS = (Euclidean(), CategoricalEntropy(), BinaryEntropy(), TsallisEntropy(1.5), ExponentialFamilyEntropy())


def checks(
    structure: Structure,
    regularizers: Sequence[Regularizer] | None = None,
    *,
    temperatures: Sequence[float] = (1.0, 0.3, 0.1),
    seed: int = 0,
    **parameters: torch.Tensor,
) -> list[Check]:
    """Named checks of a structure and of the soft argmax with each regularizer; calling one raises if it fails.

    Args:
        structure: a small instance (tens of coordinates): references are slow.
        regularizers: by default Euclidean, categorical, binary, Tsallis(1.5) and exponential-family, those of them
            that this structure supports.
        temperatures: at which the soft argmax is compared.
        seed: of the random utilities.
        parameters: values of the hull's parameters, if it has any.

    Raises:
        TypeError: not a Structure, no list of regularizers, or missing parameters.
    """
    if not isinstance(structure, Structure):
        raise TypeError(f"checks needs an sst.Structure (an instance), got {structure!r}.")
    given = regularizers is not None
    chosen = regularizers if isinstance(regularizers, Regularizer) else list(regularizers if given else REGULARIZERS)
    if isinstance(chosen, Regularizer) or not all(isinstance(f, Regularizer) for f in chosen):
        raise TypeError(f"regularizers must be a list of instances, such as [Euclidean()], got {regularizers!r}.")
    structure.flat_parameters(parameters, torch.Size())
    found = structure_checks.checks(structure, seed, parameters)
    for regularizer in chosen:
        found += path_checks.checks(structure, regularizer, temperatures, seed, parameters, must_apply=given)
    return found


def check(
    structure: Structure,
    regularizers: Sequence[Regularizer] | None = None,
    *,
    temperatures: Sequence[float] = (1.0, 0.3, 0.1),
    seed: int = 0,
    verbose: bool = True,
    **parameters: torch.Tensor,
) -> Report:
    """Run ``checks(...)`` and return the report; prints it as a table unless ``verbose`` is False."""
    listed = checks(structure, regularizers, temperatures=temperatures, seed=seed, **parameters)
    setting = Setting(structure, tuple(temperatures), seed, parameters)
    report = Report(repr(structure), [c.run() for c in listed], listed, setting)
    if verbose:
        report.print()
    return report
