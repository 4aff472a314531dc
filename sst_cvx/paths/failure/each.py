"""Every element by itself: ``on_failure`` and ``return_info``.

A batch is answered as always. Where that fails, the elements that the error names are left out and the rest is asked
again, as a batch of its own: what the others get is what they would get without those.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from sst_cvx.errors import Elements, SolveError
from sst_cvx.faults import Faults, quietly
from sst_cvx.host import guard
from sst_cvx.paths.absent import without_absent
from sst_cvx.paths.base import Batch
from sst_cvx.paths.failure.call import Call
from sst_cvx.paths.failure.closest import Closest
from sst_cvx.paths.failure.info import SolveInfo
from sst_cvx.paths.failure.spoiling import NoGradient, Spoiled
from sst_cvx.paths.opaque import is_needed
from sst_cvx.paths.opaque.patience import answered, assembled, everything
from sst_cvx.structure.masks import empty_error

FAILURES = ("raise", "nan", "closest")
_EMPTY = empty_error([]).message
_FEASIBLE = 1e-9  # least violation that is rounding

_Failed = list[tuple[torch.Tensor, str]]
_Relaxed = dict[int, tuple[Any, float]]


def check_failure(on_failure: Any, return_info: Any) -> None:
    """Raises: ValueError, TypeError."""
    if on_failure not in FAILURES:
        raise ValueError(f"on_failure must be one of {FAILURES}, got {on_failure!r}.")
    if not isinstance(return_info, bool):
        raise TypeError(f"return_info must be True or False, got {return_info!r}.")


def each(soft: Any, batch: Batch, like: torch.Tensor, on_failure: str, return_info: bool) -> Any:
    """Points for utilities ``like``, and with ``return_info`` a ``SolveInfo``, of a flat batch of them.

    Raises:
        SolveError: with "raise", and with "closest" what no relaxation helps. NotImplementedError: "closest" or
            return_info where the host must not be asked.
    """
    if batch.faults is not None or is_needed(batch.u):
        if on_failure == "closest" or return_info:
            raise NotImplementedError(
                "on_failure='closest' and return_info=True ask the host about each element, which torch.compile, "
                "torch.func and accelerators in the guard mode 'nan' do not: call eagerly, on accelerators under "
                "sst.guard('raise')."
            )
        return _unasked(soft, batch, like)
    batch = without_absent(soft.structure, batch)
    steps = torch.zeros(len(batch), dtype=torch.int64, device="cpu")
    batch = replace(batch, steps=steps if return_info and soft.path != "fast" else None)
    if on_failure == "nan":
        batch = replace(batch, elements=replace(batch.elements, told=_untold))
    failed: _Failed = []
    if not like.numel():
        x = batch.u * 0
    elif on_failure == "raise":
        x = soft._at_once(batch)
    else:
        parts = answered(soft._at_once, batch, torch.arange(len(batch), device=batch.u.device), failed, (SolveError,))
        x = parts[0][1] if not failed else assembled(parts, batch.u)
    relaxed: _Relaxed = {}
    if on_failure == "closest":
        x, relaxed = _closest(soft, batch, x, failed)
    elif failed:
        wrong = torch.zeros(len(batch), dtype=torch.bool, device=x.device)
        x = Spoiled.apply(x, everything(batch), wrong.index_fill(0, torch.cat([rows for rows, _ in failed]), True))
    info = _info(soft, batch, x, steps, failed, relaxed) if return_info else None
    x = x.reshape(like.shape).to(like.dtype)
    return x if info is None else (x, info)


def _unasked(soft: Any, batch: Batch, like: torch.Tensor) -> torch.Tensor:
    """NaN for what fails, as in the guard mode "nan", but no error follows."""
    if not like.numel():
        return like * 0
    faults = Faults(batch.elements) if batch.faults is None else batch.faults
    batch = replace(batch, faults=faults)
    if torch.compiler.is_compiling():  # none follows anyway
        return batch.spoiled(soft._answer(batch), soft).reshape(like.shape).to(like.dtype)
    batch = replace(batch, elements=replace(batch.elements, told=_untold))
    with guard("nan"), quietly():
        return batch.spoiled(soft._answer(batch), soft).reshape(like.shape).to(like.dtype)


def _untold(elements: Elements, wrong: torch.Tensor, message: str) -> None:
    """The caller asked for NaN, in gradients, too."""


def _closest(soft: Any, batch: Batch, x: torch.Tensor, failed: _Failed) -> tuple[torch.Tensor, _Relaxed]:
    """Failed rows answered by their closest feasible problems."""
    relaxed: _Relaxed = {}
    for rows, message in failed:
        for row in rows.tolist():
            x, relaxed[row] = _relax(soft, batch, x, row, message)
    return x, relaxed


def _relax(soft: Any, batch: Batch, x: torch.Tensor, row: int, message: str) -> tuple[torch.Tensor, tuple[Any, float]]:
    structure, elements = soft.structure, batch.elements
    refused = f"{message} on_failure='closest' does not help: no right side of a declared constraint is to blame."
    if not structure.parameters:
        raise elements.error(refused, [row])
    values = {name: v[row].detach().numpy() for name, v in batch.parameters.items()}
    try:
        hull = soft.shifted
    except NotImplementedError as error:
        raise NotImplementedError(f"on_failure='closest': {error} Use on_failure='nan'.") from None
    try:
        found = Closest(structure, soft.regularizer, hull)(values)
        if found.least <= _FEASIBLE:
            raise elements.error(refused, [row])
        near = soft._like(found.structure, "auto")
        one = batch.take(torch.tensor([row], device=batch.u.device))
        part = near._at_once(replace(one, parameters={}))
    except SolveError as error:
        raise elements.take(torch.tensor([row], device="cpu")).rename(_of_one(error)) from error.__cause__
    learned = [p for p in batch.parameters.values() if p.requires_grad]
    if learned and torch.is_grad_enabled():
        (index,) = [elements.index(row)]
        part = NoGradient.apply(
            part,
            f"the soft argmax of element {index} is over a relaxed hull (on_failure='closest'), and has no derivative "
            "by hull parameters: detach them, or leave the element out of the loss.",
            *learned,
        )
    at = torch.tensor([row], device=x.device)
    return x.index_copy(0, at, part.to(x.device, x.dtype)), (near, found.least)


def _of_one(error: SolveError) -> SolveError:
    """Of a batch of one, whether or not it says so."""
    return error if error.named and error.elements else SolveError(error.message, [0], error.status)


def _info(
    soft: Any, batch: Batch, x: torch.Tensor, steps: torch.Tensor, failed: _Failed, relaxed: _Relaxed
) -> SolveInfo:
    count, shape = len(batch), tuple(batch.elements.batch_shape)
    status, reason = np.full(count, "solved", dtype="<U10"), np.full(count, "", dtype=object)
    for rows, message in failed:
        for row in rows.tolist():
            status[row] = "closest" if row in relaxed else _status(soft.structure, batch, row, message)
            text = SolveError(message, [batch.elements.index(row)])
            reason[row] = "" if row in relaxed else str(text)
    converged = torch.from_numpy(np.isin(status, ["solved", "closest"])).to(x.device)
    answered = np.flatnonzero(status == "solved")
    call = Call.of(batch, x, torch.from_numpy(answered).to(x.device), relaxed)
    steps = steps.to(x.device).reshape(shape)
    return SolveInfo(
        soft.path, status.reshape(shape), reason.reshape(shape), converged.reshape(shape), steps, soft, call
    )


def _status(structure: Any, batch: Batch, row: int, message: str) -> str:
    """Why a row failed; whether the hull is empty, a linear program tells."""
    if message == _EMPTY:
        return "empty"
    if not structure.parameters or not structure.hull.known:
        return "failed"
    values = {name: v[row].detach().numpy() for name, v in batch.parameters.items()}
    try:
        structure.declared_hull.oracle(np.zeros((1, structure.event_size)), [values])
    except SolveError as error:
        return "infeasible" if "infeasible" in error.status[0] else "failed"
    return "failed"
