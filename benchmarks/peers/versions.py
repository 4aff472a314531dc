"""What ran: the machine, and versions of ours and of every peer."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform

PACKAGES = (
    *(
        "torch",
        "numba",
        "cvxpylayers",
        "moreau",
        "entmax",
        "POT",
        "ott-jax",
        "jaxopt",
        "jax",
        "torchsort",
        "torch-struct",
    ),
    *("igraph", "networkx", "lapjv", "lap", "daqp", "scipy", "numpy"),
)


def environment() -> str:
    """One line."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {name}")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    python = f"Python {platform.python_version()}"
    return f"{datetime.date.today()}, {machine}, CPU time, one thread; {python}, {', '.join(found)}"
