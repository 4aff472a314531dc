"""``python -m benchmarks.parametric``: batches of parametric QPs, A and b their inputs, against plain cvxpylayers.

    max <u, x> - t |x|^2 / 2   over   0 <= x <= 1,  A x = b

Forward and backward by u, A and b; medians of interleaved runs, CPU time of the process, one thread. qpth is measured
where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable

import cvxpy as cp
import torch
from cvxpylayers.torch.cvxpylayer import CvxpyLayer

import sst_cvx as sst
from benchmarks.__main__ import environment, markdown

#: (u (batch, n), A (batch, rows, n), b (batch, rows)) -> x
Contender = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
_T = 1.0


def problem(n: int, rows: int) -> tuple[cp.Variable, cp.Parameter, cp.Parameter, list[cp.Constraint]]:
    x, A, b = cp.Variable(n), cp.Parameter((rows, n), name="A"), cp.Parameter(rows, name="b")
    return x, A, b, [x >= 0, x <= 1, A @ x == b]


def contenders(n: int, rows: int) -> dict[str, Contender]:
    """Ours, plain cvxpylayers, and qpth if it is there."""
    x, _, _, constraints = problem(n, rows)
    soft = sst.SoftArgmax(sst.Structure(x, constraints), sst.Euclidean())
    x, A, b, constraints = problem(n, rows)
    u = cp.Parameter(n)
    objective = cp.Minimize(_T * 0.5 * cp.sum_squares(x) - u @ x)
    layer = CvxpyLayer(cp.Problem(objective, constraints), parameters=[u, A, b], variables=[x])
    found: dict[str, Contender] = {
        soft.path: lambda u, A, b: soft(u, _T, A=A, b=b),
        "plain cvxpylayers": lambda u, A, b: layer(u, A, b)[0],
    }
    if importlib.util.find_spec("qpth"):
        from qpth.qp import QPFunction  # type: ignore[import-not-found]

        eye = torch.eye(n, dtype=torch.float64)
        G, h = torch.cat([-eye, eye]), torch.cat([torch.zeros(n), torch.ones(n)]).double()
        found["qpth"] = lambda u, A, b: QPFunction(verbose=-1)(_T * eye, -u, G, h, A, b)
    return found


def inputs(n: int, rows: int, batch: int) -> list[torch.Tensor]:
    """u, A, b of feasible problems, and a cotangent."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, dtype=torch.float64, generator=generator)

    A, inside = normal(rows, n), torch.rand(batch, n, 1, dtype=torch.float64, generator=generator)
    return [normal(n), A, (A @ inside)[..., 0], normal(n)]


def run(contender: Contender, given: list[torch.Tensor]) -> list[torch.Tensor]:
    """The gradients."""
    *leaves, v = (part.clone() for part in given)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(torch.autograd.grad((contender(*leaves) * v).sum(), leaves))


def table(n: int, rows: int, batches: list[int], repeats: int) -> list[tuple[str, ...]]:
    """Rows: batch, contender, ms, times ours, largest difference to our gradients."""
    found = [("batch", "contender", "CPU ms", "times ours", "difference of gradients")]
    for batch in batches:
        given, these = inputs(n, rows, batch), contenders(n, rows)
        gradients = {name: run(contender, given) for name, contender in these.items()}
        seconds: dict[str, list[float]] = {name: [] for name in these}
        for _ in range(repeats):
            for name, contender in these.items():
                start = time.process_time()
                run(contender, given)
                seconds[name].append(time.process_time() - start)
        ours = next(iter(these))
        for name, spent in seconds.items():
            pairs = zip(gradients[name], gradients[ours], strict=True)
            worst = max(float((g - h).abs().max()) for g, h in pairs)
            middle = statistics.median(spent)
            ratio = middle / statistics.median(seconds[ours])
            found.append((str(batch), name, f"{1e3 * middle:.1f}", f"{ratio:.1f}", f"{worst:.0e}"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20, help="variables")
    parser.add_argument("--rows", type=int, default=10, help="equalities")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(environment())
    print(markdown(table(options.n, options.rows, options.batches, options.repeats)))


if __name__ == "__main__":
    main()
