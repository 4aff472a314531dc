"""Constant tensors that a structure keeps, such as the ends of edges, with their copies on other devices."""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.host import is_fake
from sst_cvx.once import constants


class Table:
    """A constant on the CPU; its copy on a device is made once: to make another would stop the device."""

    def __init__(self, tensor: torch.Tensor):
        self._tensor = tensor
        self._copies: dict[torch.device, torch.Tensor] = {}

    def on(self, device: torch.device) -> torch.Tensor:
        if device == self._tensor.device:
            return self._tensor
        if device in self._copies:
            return self._copies[device]
        if torch.compiler.is_compiling():
            return self._tensor.to(device)
        with constants():
            copy = self._tensor.to(device)
        return copy if is_fake(copy) else self._copies.setdefault(device, copy)

    def __getstate__(self) -> dict[str, Any]:
        return {"_tensor": self._tensor, "_copies": {}}
