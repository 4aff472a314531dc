"""All elements of a finite set as one matrix V: argmax, log-partition, marginals and samples by u V', on any device.

Everything is summed in float64: of utilities of 1e4, float32 logits would be off by 1e-3 and more.
"""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.host import is_fake, stops_early
from sst_cvx.once import constants, without_autocast

_CHUNK = 20_000_000  # numbers <u, v> in memory at once, unless autograd keeps them anyway
_FAR = 8.0  # distance from 0, in lengths of the set, from which elements are counted from their mean


class VertexList:
    """Elements ``(count, size)``, float64, on the CPU. Utilities are ``(*batch, size)``, answers of their dtype."""

    def __init__(self, points: torch.Tensor):
        self.points = points
        self.binary = bool(((points == 0) | (points == 1)).all())
        middle, length = points.mean(0), float((points.amax(0) - points.amin(0)).max())
        far = not self.binary and float(middle.abs().max()) > _FAR * length
        self._origin = middle if far else torch.zeros_like(middle)
        self._copies: dict[torch.device, tuple[torch.Tensor, ...]] = {}

    def __len__(self) -> int:
        return len(self.points)

    def _on(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Elements, elements less the origin, and the origin; copied to a device once."""
        if device in self._copies:
            return self._copies[device]
        if torch.compiler.is_compiling():
            return self._of(self.points.to(device))
        with constants():
            copies = self._of(self.points.to(device))
        return copies if is_fake(copies[0]) else self._copies.setdefault(device, copies)

    def _of(self, points: torch.Tensor) -> tuple[torch.Tensor, ...]:
        origin = self._origin.to(points.device)
        return points, points - origin, origin

    def prepare(self) -> None:
        """Make what is kept, which cannot be made while a compiler traces."""
        self._on(torch.device("cpu"))

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """The first of the best elements. Not differentiable."""
        points, V, _ = self._on(u.device)
        parts = [points[(part.double() @ V.T).argmax(-1)] for part in self._parts(u)]
        return _joined(parts, u)

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log sum_v exp <u, v>, ``(*batch,)``."""
        with without_autocast(u.device.type):
            _, V, origin = self._on(u.device)
            wide = u.double()
            return ((wide @ V.T).logsumexp(-1) + wide @ origin).to(u.dtype)

    def marginals(self, u: torch.Tensor) -> torch.Tensor:
        """sum_v p_v v, p = softmax(V u); differentiable any number of times."""
        with without_autocast(u.device.type):
            _, V, origin = self._on(u.device)
            parts = [(part.double() @ V.T).softmax(-1) @ V + origin for part in self._parts(u)]
            return _joined(parts, u)

    def sample(self, u: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """v with probability p_v. Where the host is not asked, by Gumbel noise: ``torch.multinomial`` checks its
        input."""
        points, V, _ = self._on(u.device)

        def draw(logits: torch.Tensor) -> torch.Tensor:
            if stops_early(logits):
                return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
            uniform = torch.rand(logits.shape, dtype=torch.float64, device=logits.device, generator=generator)
            return (logits - (-uniform.log()).log()).argmax(-1)

        return _joined([points[draw(part.double() @ V.T)] for part in self._parts(u)], u)

    def _parts(self, u: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Flat utilities, in parts whose products with all elements fit into memory."""
        flat = u.reshape(-1, u.shape[-1])
        return flat.split(max(1, _CHUNK // len(self.points)))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_copies": {}}


def _joined(parts: list[torch.Tensor], u: torch.Tensor) -> torch.Tensor:
    x = parts[0] if len(parts) == 1 else torch.cat(parts)
    return x.reshape(u.shape).to(u.dtype)
