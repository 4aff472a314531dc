"""Dynamic programs by name beside torch-struct: log-partitions, marginals and argmaxes, forward and backward.

    python -m benchmarks.dynamic_programs                 # batches of 32 and 1, float64; about 10 minutes
    python -m benchmarks.dynamic_programs --only Chain --batches 32 --seconds 0.3

CPU time of the process, one thread, medians of interleaved runs; ours through ``SoftArgmax`` with all checks.
"difference" is the largest between the two answers (and gradients: forward plus backward of <answer, fixed numbers>).
"masks" is our time with half of the batch padded, over that without.

torch-struct's semi-Markov model also scores pairs of neighbouring labels, which ours has not: its numbers are C times
as many, and it is given scores that do not depend on the label before. Its arborescences have no argmax.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

import polytopes
import sst_cvx as sst
from benchmarks.peers.versions import environment

Tensor = torch.Tensor


@dataclass(frozen=True)
class Model:
    """One structure, and torch-struct's distribution of the same set.

    Attributes:
        theirs: of log-potentials in their layout.
        lay_out: utilities ``(batch, *event_shape)`` to that layout, linear; read: their arrays back to ours.
        offset: log of how many of their structures are one of ours.
        mask: of so many words, or positions.
    """

    structure: sst.Structure
    theirs: Callable[[Tensor], object]
    lay_out: Callable[[Tensor], Tensor]
    read: Callable[[Tensor], Tensor]
    offset: float = 0.0
    shortest: int = 2


def models() -> Iterator[Model]:
    import torch_struct

    for n, labels in ((10, 5), (30, 10), (128, 20)):
        chain = polytopes.Chain(n, labels)
        yield Model(chain, torch_struct.LinearChainCRF, lambda u: u.mT.contiguous(), lambda x: x.mT)
    for n, labels, longest in ((16, 3, 4), (32, 4, 8)):
        segments = polytopes.SemiMarkov(n, labels, longest)
        offset = float(torch.tensor(labels, dtype=torch.float64).log())
        yield Model(segments, torch_struct.SemiMarkovCRF, _with_label_before, lambda x: x.sum(-1)[:, :, 1:], offset)
    for n in (10, 20, 40):
        trees = polytopes.ProjectiveTree(n + 1)
        yield Model(trees, torch_struct.DependencyCRF, *_arcs(trees, n))
        for labels in (1, 3):
            spans = polytopes.BinaryTree(n, labels)
            yield Model(spans, torch_struct.TreeCRF, lambda u: u, lambda x: x)
    for n in (10, 20):
        trees = polytopes.Arborescence(n + 1)
        yield Model(trees, _non_projective, *_arcs(trees, n))


def _non_projective(potentials: Tensor) -> object:
    import torch_struct

    return torch_struct.NonProjectiveDependencyCRF(potentials, multiroot=True)


def _with_label_before(u: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(u, (0, 0, 1, 0))
    return padded[..., None].expand(*padded.shape, u.shape[-1]).contiguous()


def _arcs(trees: sst.Structure, n: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Words from 0 in their layout, the root's arcs on the diagonal."""
    head, word = trees.edge_index  # type: ignore[attr-defined]
    head, word = torch.where(head == 0, word, head) - 1, word - 1

    def lay_out(u: Tensor) -> Tensor:
        return u.new_zeros(len(u), n, n).index_put((torch.arange(len(u))[:, None], head, word), u)

    return lay_out, lambda x: x[:, head, word]


def both(answer: Callable[[Tensor], Tensor], u: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    leaf = u.clone().requires_grad_()
    x = answer(leaf)
    (g,) = torch.autograd.grad((x * weights).sum(), leaf)
    return x.detach(), g


def race(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Milliseconds, medians."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = time.process_time() + seconds * len(runs)
    while time.process_time() < end or len(times[next(iter(times))]) < 3:
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}


def lines(model: Model, batch: int, dtype: torch.dtype, seconds: float) -> Iterator[str]:
    s = model.structure
    soft, u = sst.SoftArgmax(s, sst.ExponentialFamilyEntropy()), torch.randn(batch, *s.event_shape, dtype=dtype)
    given, weights = model.lay_out(u), torch.randn_like(u)
    sizes = torch.where(torch.arange(batch) % 2 == 0, _length(s), (_length(s) + model.shortest) // 2)
    mask = _mask(s, sizes)
    ones, spread = torch.ones(batch, dtype=dtype), model.lay_out(weights)
    ours: dict[str, Callable[[], object]] = {
        "log-partition": lambda: both(s.log_partition, u, ones),
        "marginals": lambda: both(soft, u, weights),
        "argmax": lambda: s.argmax(u),
    }
    theirs: dict[str, Callable[[], object]] = {
        "log-partition": lambda: both(lambda v: model.theirs(v).partition, given, ones),
        "marginals": lambda: both(lambda v: model.theirs(v).marginals, given, spread),
        "argmax": lambda: model.theirs(given.clone().requires_grad_()).argmax,
    }
    masked: dict[str, Callable[[], object]] = {
        "log-partition": lambda: both(lambda v: s.masked_log_partition(v, mask), u, ones),
        "marginals": lambda: both(lambda v: soft(v, mask=mask), u, weights),
        "argmax": lambda: s.masked_argmax(u, mask),
    }
    for name in ours:
        if name == "argmax" and model.theirs is _non_projective:
            continue
        times = race({"ours": ours[name], "theirs": theirs[name], "masked": masked[name]}, seconds)
        difference = _difference(model, name, ours[name](), theirs[name](), u)
        yield (
            f"| {s!r} | {batch} | {name} | {times['ours']:.2f} | {times['theirs']:.1f} | "
            f"{times['theirs'] / times['ours']:.1f} | {difference:.0e} | {times['masked'] / times['ours']:.2f} |"
        )


def _difference(model: Model, name: str, mine: object, other: object, u: Tensor) -> float:
    """Of values and gradients; of argmaxes, of their scores."""
    if name == "argmax":
        value = (u * (mine - model.read(other))).flatten(1).sum(1)  # type: ignore[operator, arg-type]
        return float(value.abs().max())
    (x, g), (y, h) = mine, other  # type: ignore[misc]
    y = y - model.offset if name == "log-partition" else model.read(y)
    return max(float((x - y).abs().max()), float((g - model.read(h)).abs().max()))


def _length(s: sst.Structure) -> int:
    return int(s.n)  # type: ignore[attr-defined]


def _mask(s: sst.Structure, sizes: Tensor) -> Tensor:
    return s.length_mask(sizes)  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 1])
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float64")
    parser.add_argument("--only", default="", help="part of the structure's name")
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU time of each way")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{environment()}, {options.dtype}\n")
    print("| structure | batch | forward + backward of | ours ms | torch-struct ms | ratio | difference | masks |")
    print("|---|---|---|---|---|---|---|---|")
    for model in models():
        if options.only in repr(model.structure):
            for batch in options.batches:
                for line in lines(model, batch, getattr(torch, options.dtype), options.seconds):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
