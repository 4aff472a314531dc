"""The operators, on flat batches of plain tensors: eager inside, without any transform."""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch

from sst_cvx.errors import Elements
from sst_cvx.faults import Faults
from sst_cvx.paths.base import Batch
from sst_cvx.paths.opaque.kept import Kept
from sst_cvx.paths.opaque.patience import patiently
from sst_cvx.structure.masks import Mask

_kept = Kept()
#: By numbers that no other process has: a program that was saved there must not find another map here.
_live: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = itertools.count(secrets.randbits(61))
_exported: set[Any] = set()


def register(soft: Any) -> int:
    """The number by which operators find a SoftArgmax, as long as it lives."""
    number = next(_numbers)
    _live[number] = soft
    return number


def hold(number: int) -> int:
    """The same number, of a SoftArgmax that lives as long as the process: an exported program holds nothing else."""
    _exported.add(_live[number])
    return number


#: All that ``torch.compiler.assume_constant_result`` does, beside importing the compiler, which takes two seconds.
hold._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _find(number: int) -> Any:
    soft = _live.get(number)
    if soft is None:
        raise RuntimeError(
            "this program asks a SoftArgmax that is not there: it was deleted, or the program was exported by another "
            "process. Keep the SoftArgmax, and compile or export in the process that runs the program."
        )
    return soft


_ROWS = "Tensor u, Tensor t, Tensor[] parameters, Tensor? mask, SymInt[] shape, SymInt number, bool raises"
_tags: Any = {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}


def _operator(name: str, schema: str) -> Any:
    return torch.library.custom_op(f"sst_cvx::{name}", mutates_args=(), schema=schema, **_tags)


@_operator("solve", f"({_ROWS}, bool keep) -> (Tensor, Tensor)")
def solve(
    u: torch.Tensor,
    t: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    shape: Sequence[int],
    number: int,
    raises: bool,
    keep: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points, and the token of what was kept for their gradient."""
    with _plain(keep):
        x, leaves = _answered(u, t, parameters, mask, shape, number, raises, keep)
        token = _kept.keep((x, leaves)) if keep else 0
        return _own(x), torch.tensor(token)


@_operator("gradient", f"(Tensor v, {_ROWS}, Tensor token) -> Tensor[]")
def gradient(
    v: torch.Tensor,
    u: torch.Tensor,
    t: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    shape: Sequence[int],
    number: int,
    raises: bool,
    token: torch.Tensor,
) -> list[torch.Tensor]:
    """Of u and the parameters. v may be several cotangents of x, one after the other, and so is then the answer."""
    with _plain(True):
        x, leaves = _kept.pop(int(token)) or _answered(u, t, parameters, mask, shape, number, raises, True)
        blocks = [_vjp(x, leaves, part) for part in v.split(len(u))]
        return [torch.cat(parts) if len(blocks) > 1 else _own(parts[0]) for parts in zip(*blocks, strict=True)]


@_operator("tangent", f"(Tensor du, Tensor[] moves, {_ROWS}) -> Tensor")
def tangent(
    du: torch.Tensor,
    moves: Sequence[torch.Tensor],
    u: torch.Tensor,
    t: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    shape: Sequence[int],
    number: int,
    raises: bool,
) -> torch.Tensor:
    """Of x, for those of u and the parameters."""
    with _plain(True):
        x, leaves = _answered(u, t, parameters, mask, shape, number, raises, True)
        v = torch.zeros_like(x).requires_grad_()
        found = _vjp(x, leaves, v, again=True)
        return _own(_grad(found, [v], [du, *moves])[0])


@_operator("second", f"(Tensor[] w, Tensor v, {_ROWS}) -> Tensor[]")
def second(
    w: Sequence[torch.Tensor],
    v: torch.Tensor,
    u: torch.Tensor,
    t: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    shape: Sequence[int],
    number: int,
    raises: bool,
) -> list[torch.Tensor]:
    """Derivatives of <w, J'v> by v (which may be several), u and the parameters."""
    with _plain(True):
        x, leaves = _answered(u, t, parameters, mask, shape, number, raises, True)
        v = v.detach().clone().requires_grad_()
        blocks = [_vjp(x, leaves, part, again=True) for part in v.split(len(u))]
        found = _grad([torch.cat(parts) for parts in zip(*blocks, strict=True)], [v, *leaves], w)
        return [_own(g) for g in found]


@contextlib.contextmanager
def _plain(differentiate: bool) -> Iterator[None]:
    """Autograd as outside of an operator, in whose kernel it is switched off."""
    include, exclude = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.AutogradCPU, torch._C.DispatchKey.ADInplaceOrView):
        exclude = exclude - torch._C.DispatchKeySet(key)
    with (
        torch._C._ForceDispatchKeyGuard(include, exclude),
        torch.inference_mode(False),
        torch.set_grad_enabled(differentiate),
    ):
        yield


def _answered(
    u: torch.Tensor,
    t: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    shape: Sequence[int],
    number: int,
    raises: bool,
    keep: bool,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Points, and with ``keep`` the leaves that they are a function of: copies, for inputs may be overwritten."""
    soft = _find(number)
    structure = soft.structure
    u, t, *values = (x.detach().clone() if keep or x.is_inference() else x for x in (u, t, *parameters))
    leaves = [x.requires_grad_() for x in (u, *values)] if keep else []
    named = {p.name(): v for p, v in zip(structure.parameters, values, strict=True)}
    copies = len(u) // max(1, torch.Size(shape).numel())
    elements = Elements(torch.Size(shape), copies=copies) if raises else Elements(torch.Size([len(u)]), told=_untold)
    masked: Mask | None = None if mask is None else structure.check_mask(mask.clone(), u.shape, u.device)
    batch = Batch(u, t, named, masked, elements, None if raises else Faults(elements))
    if raises:
        structure.flat_parameters(named, u.shape[:1])  # checked here, where they are numbers
        return soft._at_once(batch), leaves
    return patiently(soft._at_once, batch, structure), leaves


def _own(x: torch.Tensor) -> torch.Tensor:
    """As an operator returns it: nothing that it was given or has kept, and contiguous, as compilers were told."""
    return x.detach().clone(memory_format=torch.contiguous_format)


def _untold(elements: Elements, wrong: torch.Tensor, message: str) -> None:
    """No error follows a call that is compiled or mapped."""


def _vjp(x: torch.Tensor, leaves: list[torch.Tensor], v: torch.Tensor, again: bool = False) -> list[torch.Tensor]:
    """J'v; elements whose gradient failed have none in parameters either."""
    g, *others = _grad([x], leaves, [v], again=again, retain=True)
    if not others:
        return [g]
    failed = g.detach().flatten(1).isnan().any(1)
    return [g, *(torch.where(failed.reshape(-1, *[1] * (h.dim() - 1)).to(h.device), torch.nan, h) for h in others)]


def _grad(outputs: Any, inputs: Any, v: Any, again: bool = False, retain: bool = False) -> list[torch.Tensor]:
    """torch.autograd.grad, 0 where an input does not count."""
    pairs = [(y, w) for y, w in zip(outputs, v, strict=True) if y.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in inputs]
    outputs, v = zip(*pairs, strict=True)
    found = torch.autograd.grad(outputs, inputs, v, create_graph=again, retain_graph=retain, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
