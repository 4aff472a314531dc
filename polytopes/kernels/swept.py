"""What graphs and hypergraphs that are swept over share: index tables on every device, and being found by compilers."""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from typing import Any, Self
from weakref import WeakValueDictionary

import torch

from sst_cvx.host import is_fake
from sst_cvx.once import constants, state_without_computed


class Swept(ABC):
    """A constant with index tables, and ``_steps``, made when sweeps of tensors need them. Subclasses end their
    ``__init__`` by ``_register()``."""

    _steps: Any
    _elsewhere: dict[torch.device, Self]
    _name: str

    @property
    @abstractmethod
    def _index(self) -> torch.Tensor:
        """One of the tables, which are all on one device."""

    @abstractmethod
    def _tables_on(self, device: torch.device) -> dict[str, Any]:
        """All tables, the steps included, by the names of their attributes."""

    def _register(self) -> None:
        self._elsewhere, self._name = {}, f"graph {next(_numbers)}"
        _live[self._name] = self

    def on(self, device: torch.device) -> Self:
        """The same with its index tables on ``device``: copied once, for a copy would stop the device."""
        if torch.compiler.is_dynamo_compiling():
            _make_steps(self._name)
        if self._index.device == device:
            return self
        if device in self._elsewhere:
            return self._elsewhere[device]
        moved: Any = object.__new__(type(self))
        moved.__dict__.update(vars(self))
        with contextlib.nullcontext() if torch.compiler.is_compiling() else constants():
            moved.__dict__.update(self._tables_on(device))
        if not (torch.compiler.is_compiling() or is_fake(moved._index)):
            self._elsewhere[device] = moved
        return moved

    def __getstate__(self) -> dict[str, Any]:
        return state_without_computed(self) | {"_elsewhere": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._register()

    def __deepcopy__(self, memo: dict) -> Self:
        return self  # never changes


#: By names under which they are found, as long as they live.
_live: WeakValueDictionary[str, Swept] = WeakValueDictionary()
_numbers = itertools.count()


def _make_steps(name: str) -> bool:
    """While a compiler traces, which runs this at once: what it records could not be kept."""
    return bool(_live[name]._steps)


#: All that ``torch.compiler.assume_constant_result`` does, beside importing the compiler.
_make_steps._dynamo_marked_constant = True  # type: ignore[attr-defined]


def take(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """rows[index]: index_select is three times as fast."""
    return rows.index_select(0, index.flatten()).reshape(*index.shape, -1)
