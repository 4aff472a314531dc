"""Structures known by their hard argmax alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from sst_cvx.arguments import check_finite, check_size
from sst_cvx.structure.base import Structure
from sst_cvx.structure.composable import makes


@makes("argmax")
class ByArgmax(Structure, final=True):
    """What ``Structure.from_argmax`` returns."""

    def __init__(self, event_shape: int | Sequence[int], argmax: Callable[[torch.Tensor], torch.Tensor]):
        if not callable(argmax):
            raise TypeError(f"argmax must be a function of utilities, got {type(argmax).__name__}.")
        shape = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
        self._function = argmax
        super().__init__(event_shape=tuple(check_size("event_shape", s, 1) for s in shape))
        self._probe()

    def declare(self) -> None:
        """There is no hull."""

    def argmax(self, u: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        """The function given to ``from_argmax``, with its answer checked for shape, dtype, device and finiteness."""
        self.flat_parameters(parameters, u.shape[: u.dim() - len(self.event_shape)])  # there are none
        x = self._function(u)
        if isinstance(x, torch.Tensor):
            check_finite(x, "what argmax returned")
        return x

    def _probe(self) -> None:
        """On random utilities: batched and single, both dtypes; no answer may be worse than another element's, and
        none may follow small changes of the utilities continuously."""
        u = torch.randn(8, *self.event_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        self.argmax(u[:0])
        self.argmax(u[0].float())
        x = self.argmax(u.reshape(2, 4, *self.event_shape)).reshape(8, -1)
        values = u.reshape(8, -1) @ x.T
        loss = values.amax(1) - values.diagonal()
        if bool((loss > 1e-9 * (1 + values.abs().amax())).any()):
            raise ValueError(
                f"argmax is not a maximiser: for some utilities its answer is worse, by {float(loss.max()):.3g}, than "
                "what it returned for others. Return the x in X with the largest (u * x).sum()."
            )

        moved = (self.argmax(u + 1e-6 * u.flip(0)).reshape(8, -1) - x).abs().amax(1) / (1e-300 + x.abs().max())
        if bool(((moved > 1e-11) & (moved < 1e-4)).any()):
            raise ValueError(
                "argmax is not that of a finite set: its answer moves a little when utilities do. For a smooth body "
                "declare its hull: sst.Structure(variable, constraints)."
            )

    def __repr__(self) -> str:
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        return f"Structure.from_argmax({self.event_shape}, {name})"
