"""Time of tree marginals in a training step: ours, and the authors' (log-determinant by autograd, clipped logits).

python -m examples.graph_layout.timing
"""

from __future__ import annotations

from examples import command_line  # noqa: F401 - first: Ctrl-C ends quietly from here on

# isort: split
import argparse
import statistics
import time

import torch

import polytopes
import sst_cvx as sst
from examples.graph_layout.data import VERTICES

CLIP = 15.0  # logits are raised to the largest minus this, as the authors do


def authors_marginals(u: torch.Tensor) -> torch.Tensor:
    """Gradient of the log-determinant of the Laplacian of exp(u), ``(batch, 45)``."""
    i, j = torch.triu_indices(VERTICES, VERTICES, 1)
    clipped = torch.maximum(u, u.amax(1, keepdim=True) - CLIP)
    weights = (clipped - clipped.detach().amax(1, keepdim=True)).exp()
    matrix = weights.new_zeros(len(u), VERTICES, VERTICES)
    matrix[:, i, j] = weights
    matrix = matrix + matrix.mT
    laplacian = torch.diag_embed(matrix.sum(-1)) - matrix
    total = laplacian[:, 1:, 1:].logdet().sum()
    return torch.autograd.grad(total, clipped, create_graph=True)[0]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    torch.set_num_threads(1)
    soft = sst.SoftArgmax(polytopes.SpanningTree(VERTICES), sst.ExponentialFamilyEntropy())
    torch.manual_seed(0)
    for scale in (1.0, 10.0):
        u = (scale * torch.randn(128, 45)).requires_grad_()
        exact = soft(u.detach().double())
        print(f"logits randn x {scale:g}, batch 128, float32, forward and backward:")
        for name, sample in (("ours", soft), ("authors'", authors_marginals)):
            times = []
            for _ in range(30):
                begin = time.perf_counter()
                x = sample(u)
                (x * x).sum().backward()
                times.append(time.perf_counter() - begin)
            error = float((x.detach() - exact).abs().max())
            print(f"  {name:10} {1e3 * statistics.median(times):6.2f} ms   largest error {error:.1e}")


if __name__ == "__main__":
    main()
