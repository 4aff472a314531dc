"""The hard argmax as an operator of torch's, for where the host must not be asked but the algorithm runs there.

Compilers, ``torch.export`` and ``vmap`` see one opaque operator over a flat batch. Inside it, tensors have numbers, and
errors are caught: an element that fails is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import torch

from sst_cvx.errors import SolveError
from sst_cvx.host import guard

_live: WeakValueDictionary[int, Any] = WeakValueDictionary()
_count = 0


def handle_of(structure: Any) -> int:
    """A number by which operators find a structure, in this process."""
    global _count
    _count += 1
    _live[_count] = structure
    return _count


def surviving(ask: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor) -> torch.Tensor:
    """``ask(rows)`` for the rows of u ``(count, ...)``, NaN for those that are not finite or that it raises for."""
    x = torch.full_like(u, torch.nan)
    waiting = [torch.nonzero(torch.isfinite(u).reshape(len(u), -1).all(1)).flatten()]
    with guard("raise"):
        while waiting:
            rows = waiting.pop()
            if not rows.numel():
                continue
            try:
                x = x.index_copy(0, rows, ask(rows))
            except (SolveError, ValueError) as error:
                failed = [e[0] for e in getattr(error, "elements", ()) if len(e) == 1]
                if failed:
                    kept = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
                    kept[failed] = False
                    waiting.append(rows[kept])
                elif len(rows) > 1:  # not said which
                    waiting += rows.tensor_split(2)
    return x


@torch.library.custom_op(
    "sst_cvx::argmax", mutates_args=(), schema="(Tensor u, Tensor? mask, Tensor[] parameters, int handle) -> Tensor"
)
def _argmax(u: torch.Tensor, mask: torch.Tensor | None, parameters: list[torch.Tensor], handle: int) -> torch.Tensor:
    structure = _live.get(handle)
    if structure is None:
        raise RuntimeError("this program asks a structure that is gone: export it again, or keep the structure alive.")
    names = [p.name() for p in structure.parameters]

    def ask(rows: torch.Tensor) -> torch.Tensor:
        if mask is not None:
            return structure.masked_argmax(u[rows], mask[rows])
        values = {name: v[rows.to(v.device)] for name, v in zip(names, parameters, strict=True)}
        return structure.argmax(u[rows], **values)

    return surviving(ask, u)


@_argmax.register_fake
def _(u: torch.Tensor, mask: torch.Tensor | None, parameters: list[torch.Tensor], handle: int) -> torch.Tensor:
    return torch.empty_like(u)


@_argmax.register_vmap
def _(
    info: Any, in_dims: Any, u: torch.Tensor, mask: torch.Tensor | None, parameters: list[torch.Tensor], handle: int
) -> tuple[torch.Tensor, int]:
    u_dim, mask_dim, parameter_dims, _ = in_dims

    def folded(x: torch.Tensor, dim: int | None) -> torch.Tensor:
        x = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        return x.flatten(0, 1)

    values = [folded(v, d) for v, d in zip(parameters, parameter_dims or [None] * len(parameters), strict=True)]
    flat = folded(u, u_dim)
    x = _argmax(flat, None if mask is None else folded(mask, mask_dim), values, handle)
    return x.unflatten(0, (info.batch_size, -1)), 0


def argmax(
    structure: Any, u: torch.Tensor, mask: torch.Tensor | None, parameters: dict[str, torch.Tensor]
) -> torch.Tensor:
    """The argmax of utilities ``(*batch, *event_shape)`` by the operator; rows that fail are NaN. Parameters are
    ``(count, *shape)`` of the flat batch."""
    event = structure.event_shape
    flat = u.reshape(-1, *event).contiguous()
    allowed = None if mask is None else mask.expand(u.shape).reshape(flat.shape).contiguous()
    values = [parameters[p.name()].contiguous() for p in structure.parameters]
    return _argmax(flat, allowed, values, structure.handle).reshape(u.shape)
