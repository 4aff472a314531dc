"""How loops within loops are compiled: into those that call them, with nothing for Python and no cache of their own."""

from __future__ import annotations

from typing import Any

import numba

_options: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
inner: Any = numba.njit(nogil=True, error_model="numpy", **_options)
