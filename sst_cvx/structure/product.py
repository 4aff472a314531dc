"""Independent structures as one: X = X_1 x X_2 x ..., and X^n. All that is asked of it is asked of its factors."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.arguments import check_size, check_vertex_count
from sst_cvx.once import computed_once, constants, later
from sst_cvx.structure.base import Structure
from sst_cvx.structure.composable import makes
from sst_cvx.structure.declaration import ParameterValues
from sst_cvx.structure.masks import Mask
from sst_cvx.structure.substitution import in_event

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


@dataclass(frozen=True)
class Factor:
    """``copies`` independent elements of one structure, at ``[start, stop)`` of the flat event."""

    structure: Structure
    start: int
    stop: int
    copies: int

    def of(self, x: torch.Tensor, event_dim: int) -> torch.Tensor:
        """Its part of ``(*batch, *event_shape)`` with so many event dimensions: ``(*batch, copies, *its event_shape)``,
        without ``copies`` where there is but one."""
        batch = x.shape[: x.dim() - event_dim]
        flat = x.reshape(*batch, math.prod(x.shape[x.dim() - event_dim :]))[..., self.start : self.stop]
        copies = () if self.copies == 1 else (self.copies,)
        return flat.reshape(*batch, *copies, *self.structure.event_shape)


class Product(Structure, final=True):
    """Independent structures as one: an element is a tuple of one element of each, flat, one after the other.

    Every path, trick and fast algorithm of the factors is kept: the soft argmax of a product is that of its factors,
    bit for bit, for regularizers that are sums over coordinates, and for the exponential family.

    Args:
        factors: structures, by position or by name; event shape ``(sum of sizes,)``. Parameters of their hulls are
            those of the product.

    Attributes:
        factors: tuple of ``Factor``, in the order of the event.
        names: of the factors, () where they were given by position.

    Raises:
        TypeError: no structures, or both kinds of arguments.

    Example:
        >>> both = sst.Product(tree=polytopes.SpanningTree(4), picks=polytopes.KSubset(6, 2))
        >>> u = both.join(tree=torch.randn(8, 6), picks=torch.randn(8, 6))
        >>> both.split(sst.SoftArgmax(both, sst.Euclidean())(u))["tree"].shape
        torch.Size([8, 6])
    """

    def __init__(self, *factors: Structure, **named: Structure):
        if bool(factors) == bool(named):
            raise TypeError("Product takes structures either by position or by name, at least one.")
        given = factors or tuple(named.values())
        for one in given:
            if not isinstance(one, Structure):
                raise TypeError(f"Product takes structures (instances), got {one!r}.")
        ends = np.cumsum([0, *(one.event_size for one in given)]).tolist()
        self.names = tuple(named)
        self.factors = tuple(
            Factor(one, start, stop, 1) for one, start, stop in zip(given, ends[:-1], ends[1:], strict=True)
        )
        self._assemble((ends[-1],))

    @classmethod
    def power(cls, structure: Structure, n: int) -> Product:
        """n independent elements of one structure; event shape ``(n, *structure.event_shape)``."""
        n = check_size("n", n, 1)
        made = cls.__new__(cls)
        made.names, made.factors = (), (Factor(structure, 0, n * structure.event_size, n),)
        with constants():
            made._assemble((n, *structure.event_shape))
        return made

    def _assemble(self, event_shape: Sequence[int]) -> None:
        parts = [factor.structure for factor in self.factors]
        super().__init__(event_shape=event_shape, integral=all(part.integral for part in parts))
        found = {id(p): p for part in parts for p in part.parameters}
        if len({p.name() for p in found.values()}) < len(found):
            raise ValueError("different hull parameters of the factors have one name: rename one of them.")
        self.parameters = list(found.values())
        self.known_bounded = self._bounded = True  # the factors are
        self.known_binary = all(part.known_binary for part in parts)
        self.argmax_on_device = all(part.argmax_on_device for part in parts)
        refusals = [part for part in parts if not part.has_log_partition()]
        if refusals:
            self.log_partition_refusal = (
                refusals[0].log_partition_refusal or f"the factor {refusals[0]!r} has no log_partition"
            )

    # -- parts and wholes -------------------------------------------------------------------------------------

    def split(self, x: torch.Tensor) -> Any:
        """The parts of ``(*batch, *event_shape)``, each ``(*batch, *its event_shape)``: a tuple, or a dict where
        factors have names. Of a power, a tuple of one: x itself."""
        parts = tuple(factor.of(x, len(self.event_shape)) for factor in self.factors)
        return dict(zip(self.names, parts, strict=True)) if self.names else parts

    def join(self, *parts: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        """The opposite of ``split``: parts by position or by name, whose batch shapes broadcast.

        Raises:
            TypeError: missing or unknown parts. ValueError: parts of a wrong shape.
        """
        if set(named) != set(self.names) or len(parts) + len(named) != len(self.factors):
            raise TypeError(f"join takes {self.names or len(self.factors)} parts, as split returns them.")
        flat = []
        for factor, part in zip(self.factors, [named[name] for name in self.names] or parts, strict=True):
            copies = () if factor.copies == 1 else (factor.copies,)
            shape = (*copies, *factor.structure.event_shape)
            split = part.dim() - len(shape)
            if split < 0 or tuple(part.shape[split:]) != shape:
                raise ValueError(
                    f"the part of {factor.structure!r} must be (*batch, {shape}), got {tuple(part.shape)}."
                )
            flat.append(part.reshape(*part.shape[:split], factor.stop - factor.start))
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in flat))
        return torch.cat([part.expand(*batch, -1) for part in flat], -1).reshape(*batch, *self.event_shape)

    def _map(self, answer: Callable[[Factor, torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """Answers of the shape of each part, put together in the shape of x."""
        batch = x.shape[: x.dim() - len(self.event_shape)]
        sizes = [factor.stop - factor.start for factor in self.factors]
        parts = [answer(factor, factor.of(x, len(self.event_shape))) for factor in self.factors]
        flat = [part.reshape(*batch, size) for part, size in zip(parts, sizes, strict=True)]
        return (flat[0] if len(flat) == 1 else torch.cat(flat, -1)).reshape(x.shape)

    def values_of(self, factor: Factor, values: ParameterValues, repeated: bool = True) -> ParameterValues:
        """Parameters of one factor, ``(*batch, *shape)`` each, of a flat batch once for every copy."""
        mine = {p.name(): values[p.name()] for p in factor.structure.parameters}
        if repeated and factor.copies > 1:
            mine = {name: value.repeat_interleave(factor.copies, 0) for name, value in mine.items()}
        return mine

    # -- what a structure is asked ----------------------------------------------------------------------------

    def declare(self) -> tuple[cp.Variable, list[Any]] | None:
        if not all(factor.structure.hull.known for factor in self.factors):
            return None
        x = cp.Variable(self.event_shape)
        flat, constraints = cp.vec(x, order="C"), []
        for factor in self.factors:
            size = factor.structure.event_size
            for start in range(factor.start, factor.stop, size):
                part = cp.reshape(flat[start : start + size], factor.structure.event_shape, order="C")
                constraints += in_event(factor.structure, part, lambda v: True)
        return x, constraints

    def argmax(self, u: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        """Of each factor, by its own algorithm."""
        batch = u.shape[: u.dim() - len(self.event_shape)]
        values = self.flat_parameters(parameters, batch)

        def best(factor: Factor, part: torch.Tensor) -> torch.Tensor:
            rows = part.reshape(batch.numel() * factor.copies, *factor.structure.event_shape)
            return factor.structure.argmax(rows, **self.values_of(factor, values))

        return self._map(best, u)

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Of each factor, independent."""
        return self._map(lambda factor, part: factor.structure.sample(part, generator), u)

    def has_vertices(self) -> bool:
        return all(factor.structure.has_vertices() for factor in self.factors)

    @constants()
    def vertices(self) -> torch.Tensor:
        lists = [part.vertices().flatten(1) for part in self._each()]
        check_vertex_count(self, math.prod(len(points) for points in lists))
        index = torch.cartesian_prod(*(torch.arange(len(points)) for points in lists)).reshape(-1, len(lists))
        rows = torch.cat([points[which] for points, which in zip(lists, index.T, strict=True)], 1)
        return rows.reshape(-1, *self.event_shape)

    def _each(self) -> Iterator[Structure]:
        """The structure of every part, copies one by one."""
        for factor in self.factors:
            yield from [factor.structure] * factor.copies

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """The sum of the factors'."""
        total = u.new_zeros(u.shape[: u.dim() - len(self.event_shape)], dtype=torch.float64)
        for factor in self.factors:
            part = factor.structure.log_partition(factor.of(u, len(self.event_shape))).double()
            total = total + (part if factor.copies == 1 else part.sum(-1))
        return total.to(u.dtype)

    def violation(self, x: torch.Tensor, parameters: ParameterValues | None = None) -> torch.Tensor:
        return self._worst(
            x, lambda part, rows, values: part.violation(rows, *([values] if values else [])), parameters
        )

    def violation_by_tensors(self, x: torch.Tensor) -> torch.Tensor:
        return self._worst(x, lambda part, rows, _: part.violation_by_tensors(rows), None)

    def _worst(self, x: torch.Tensor, ask: Callable[..., torch.Tensor], values: ParameterValues | None) -> torch.Tensor:
        found = []
        for factor in self.factors:
            rows = x[:, factor.start : factor.stop].reshape(len(x) * factor.copies, factor.structure.event_size)
            part = ask(factor.structure, rows, self.values_of(factor, values) if values else None)
            found.append(part if factor.copies == 1 else part.reshape(len(x), factor.copies).amax(1))
        return torch.stack(found).amax(0)

    @property
    def sees_hull(self) -> bool:
        return all(factor.structure.sees_hull for factor in self.factors)

    def prepare(self) -> None:
        for factor in self.factors:
            factor.structure.prepare()

    def coordinate_range(self, tight: bool = False) -> tuple[np.ndarray, np.ndarray] | None:
        ranges = [part.coordinate_range(tight) for part in self._each()]
        if any(found is None for found in ranges):
            return None
        return tuple(np.concatenate(ends) for ends in zip(*ranges, strict=True))  # pyright: ignore

    @computed_once
    def binary(self) -> bool:
        return all(factor.structure.binary for factor in self.factors)

    @computed_once
    def relaxed(self) -> Structure:
        if self.integral:
            return self
        if len(self.factors) == 1 and self.event_shape != (self.event_size,):
            return self.factors[0].structure.relaxed ** self.factors[0].copies
        looser = [factor.structure.relaxed for factor in self.factors]
        return Product(**dict(zip(self.names, looser, strict=True))) if self.names else Product(*looser)

    def fillers(self, allowed: torch.Tensor) -> torch.Tensor | None:
        def fill(factor: Factor, part: torch.Tensor) -> torch.Tensor:
            found = factor.structure.fillers(part)
            return torch.zeros_like(part) if found is None else found

        return self._map(fill, allowed)

    def with_fillers(self, x: torch.Tensor, mask: Mask) -> torch.Tensor:
        def complete(factor: Factor, part: torch.Tensor) -> torch.Tensor:
            return factor.structure.with_fillers(part, self.mask_of(factor, mask))

        return self._map(complete, x)

    def mask_of(self, factor: Factor, mask: Mask) -> Mask:
        """A mask of the product's, of one factor; copies are a batch dimension."""
        dims = len(self.event_shape)
        allowed, kept = factor.of(mask.allowed, dims), factor.of(mask.kept, dims)
        return Mask(allowed, kept, mask.batch_dim + (factor.copies > 1), mask.implied)

    # -- identity ---------------------------------------------------------------------------------------------

    def _key(self) -> Hashable:
        return self.names, self.event_shape, tuple((factor.structure, factor.copies) for factor in self.factors)

    def __repr__(self) -> str:
        if len(self.event_shape) > 1 or self.factors[0].copies > 1:
            return f"{self.factors[0].structure!r} ** {self.factors[0].copies}"
        named = zip(self.names or [""] * len(self.factors), self.factors, strict=True)
        return f"Product({', '.join(f'{name}={f.structure!r}' if name else repr(f.structure) for name, f in named)})"


makes("power")(Product.power)
