"""Time of tree marginals in a training step: ours, and the authors' (log-determinant by autograd, clipped logits).

    python -m examples.graph_layout.timing
    python -m examples.graph_layout.timing --steps 50 --device cuda

With --steps, that of whole training steps instead, of the paper's size, for every distribution over edges; on a CUDA
device eager and as one CUDA graph.
"""

from __future__ import annotations

from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

import polytopes
import sst_cvx as sst
from examples.graph_layout import train
from examples.graph_layout.data import VERTICES
from examples.graph_layout.edges import REGULARIZERS

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


def marginals() -> None:
    """Print the table of tree marginals."""
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


def training_steps(preset: str, device: str, steps: int) -> None:
    """Print milliseconds a step, the mean of a row that nothing interrupts, for every distribution over edges."""
    print(f"{'a training step, preset ' + preset:36} {'eager':>10}   {'graph':>10}", flush=True)
    cases = [("independent", "exponential"), *((e, r) for e in ("top", "tree") for r in REGULARIZERS)]
    for edges, regularizer in cases:
        if edges == "tree" and regularizer != "exponential":
            continue  # solved iteratively: no step of one graph
        shown = [f"{edges + ' ' + (regularizer if edges != 'independent' else ''):36}"]
        for graph in (False, True):
            try:
                shown.append(f"{_step_milliseconds(preset, device, steps, graph, edges, regularizer):7.2f} ms")
            except (RuntimeError, ValueError) as error:  # a table goes on
                shown.append("-" if device == "cpu" else f"{type(error).__name__}: {str(error).splitlines()[0][:80]}")
        print("   ".join(shown), flush=True)


def _step_milliseconds(preset: str, device: str, steps: int, graph: bool, edges: str, regularizer: str) -> float:
    chosen = replace(train.PRESETS[preset], graphs=2000, held_out=128, edges=edges, regularizer=regularizer)
    with tempfile.TemporaryDirectory() as folder:
        run = train.Run(chosen, Path(folder), device, graph=graph)
    run.model.train()
    for _ in range(5):
        loss = run.advance()
    float(loss)  # waits
    begin = time.perf_counter()
    for _ in range(steps):
        loss = run.advance()
    float(loss)
    sst.synchronize()
    return 1e3 * (time.perf_counter() - begin) / steps


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=command_line.whole(1), help="time so many training steps instead")
    parser.add_argument("--preset", choices=train.PRESETS, default="paper", help="with --steps")
    parser.add_argument("--device", type=command_line.device, default="cpu", help="with --steps")
    o = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if o.steps:
        training_steps(o.preset, o.device, o.steps)
    else:
        marginals()


if __name__ == "__main__":
    main()
