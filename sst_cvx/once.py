"""What is computed once and then shared by all threads, copies and modes of the caller."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

#: Holds whatever reads or writes CVXPY objects: their values, and their canonicalisation, are shared by all threads.
CVXPY_LOCK = threading.RLock()


@contextlib.contextmanager
def constants() -> Iterator[None]:
    """Tensors made here are plain ones on the CPU, whatever the caller's default device, inference or autocast mode.

    What is made under ``torch.inference_mode`` and kept could never be trained with.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"), torch.autocast("cpu", enabled=False):
        yield


class computed_once(cached_property):  # used as a decorator, as its base is
    """A ``cached_property`` computed under the lock, as ``constants``, and dropped from pickles and copies."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        with CVXPY_LOCK:
            if self.attrname in instance.__dict__:  # another thread was faster
                return instance.__dict__[self.attrname]
            with _disable_current_modes(), constants():  # nothing fake is kept
                return super().__get__(instance, owner)


def state_without_computed(instance: object) -> dict[str, Any]:
    """``instance.__dict__`` without what was computed once: what pickles and copies carry."""
    made = {name for base in type(instance).__mro__ for name, v in vars(base).items() if isinstance(v, cached_property)}
    return {name: value for name, value in vars(instance).items() if name not in made}


class later:
    """A module, imported when something of it is first asked for: ``cp = later("cvxpy")``. CVXPY and its solvers take
    seconds, and most calls need nothing of them."""

    def __init__(self, module: str):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by inspection, copies and the like
            raise AttributeError(name)
        value = getattr(importlib.import_module(self._module), name)
        self.__dict__[name] = value
        return value


def without_autocast(device_type: str) -> contextlib.AbstractContextManager[Any]:
    """No autocast here: checks and solves keep the dtype of their inputs."""
    if not torch.is_autocast_enabled(device_type):
        return _NOTHING
    return torch.autocast(device_type, enabled=False)


_NOTHING = contextlib.nullcontext()
