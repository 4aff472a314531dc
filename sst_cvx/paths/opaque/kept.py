"""The latest few of what operators keep from a solve for its gradient."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from typing import Any

_MOST = 8  # a training step asks for few solves at once, and what is gone is solved again


class Kept:
    """By tokens; any number of threads."""

    def __init__(self) -> None:
        self._lock, self._numbers = threading.Lock(), itertools.count(1)
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def keep(self, what: Any) -> int:
        """Its token."""
        with self._lock:
            token = next(self._numbers)
            self._kept[token] = what
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
            return token

    def pop(self, token: int) -> Any:
        """What was kept, once; else None."""
        with self._lock:
            return self._kept.pop(token, None)
