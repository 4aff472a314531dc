"""What is asked of a soft argmax besides its points: certificates, logarithms, closest feasible problems."""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.once import computed_once
from sst_cvx.paths.base import Accuracy, Path
from sst_cvx.paths.failure.shifted import ShiftedHull
from sst_cvx.paths.gap import frank_wolfe_gap
from sst_cvx.paths.logarithm import Logarithm, log_soft_argmax
from sst_cvx.paths.product.path import ProductLogarithm, ProductPath
from sst_cvx.regularizers import Regularizer
from sst_cvx.structure.base import Structure


class Questions:
    """Of one pair; ``SoftArgmax`` is one."""

    structure: Structure
    regularizer: Regularizer
    _path: Path

    def gap(
        self, u: torch.Tensor, x: torch.Tensor, temperature: Any = 1.0, *, mask: Any = None, **more: Any
    ) -> torch.Tensor:
        """Frank-Wolfe gap max_v <u - t grad f(x), v - x>, ``(*batch,)``, float64: 0 at X_t(u), up to the rounding of x.

        ``t m / 2 |x - X_t(u)|^2 <= gap``. ``more``: hull parameters; ``log``, log x. See ``paths.gap``.
        """
        return frank_wolfe_gap(self.feasible, self.regularizer, u, x, temperature, mask=mask, **more)

    @property
    def feasible(self) -> Structure:
        """The set whose hull answers are in, the structure's, or where ``integral=False`` the declared one's."""
        return self.structure if self._path.within_set or self.regularizer.within_set else self.structure.relaxed

    def log(
        self, u: torch.Tensor, temperature: float | torch.Tensor = 1.0, *, mask: Any = None, **parameters: torch.Tensor
    ) -> torch.Tensor:
        """log of the soft argmax of an entropy, exact also where that underflows; arguments and errors as of the call.

        Forbidden items, and others that are 0 for any utilities, have -inf. Differentiable as the call.

        Raises:
            NotImplementedError: regularizers that are no entropies, hulls with cones.
        """
        return log_soft_argmax(self, u, temperature, mask, parameters)

    @computed_once
    def logarithm(self) -> Logarithm | ProductLogarithm:
        """What ``log`` asks."""
        if isinstance(self._path, ProductPath):
            return ProductLogarithm(self._path)
        return Logarithm(self.structure, self.regularizer, self._path)

    @computed_once
    def ways(self) -> frozenset[str]:
        """The names of the paths that answer; of a product, those of its factors."""
        if isinstance(self._path, ProductPath):
            return frozenset[str]().union(*(soft.ways for soft in self._path.parts))
        return frozenset([self._path.name])

    @computed_once
    def shifted(self) -> ShiftedHull:
        """The declared hull with shifts, which closest feasible problems and multipliers ask for."""
        return ShiftedHull(self.structure)

    def accuracy(self, temperature: float = 1.0) -> Accuracy:
        """What the path promises in float64, for utilities of order 1."""
        return self._path.accuracy_at(temperature)
