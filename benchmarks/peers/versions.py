"""What ran: the machine, and versions of ours and of every peer."""

from __future__ import annotations

from benchmarks.__main__ import environment as environment_of

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
    return environment_of(PACKAGES, "CPU time, one thread")
