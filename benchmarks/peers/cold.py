"""Costs beside the work: what a call costs in itself, builds, imports, and first calls of compiled kernels.

- **A call's fixed cost** is the median CPU time of ``soft(u)``, ``soft = SoftArgmax(OneHot(5), CategoricalEntropy())``,
  u of one row, less that of ``u.softmax(-1)``; interleaved. "Training": forward and backward of each.
- **Build**: the structure and its SoftArgmax, in a process that has built others.
- **Import**: a fresh process that imports torch, sst_cvx and polytopes, less one that imports torch.
- **First call**: in a fresh process, CPU time of the first call (forward and backward) less that of the second; with an
  empty cache of compiled kernels, again with the one just filled, and without compiled kernels.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch

import polytopes
import sst_cvx as sst
from benchmarks.measure import interleaved
from benchmarks.peers.chains import graph
from benchmarks.peers.race import limited

HEADER = ("cost", "measured", "aim", "")


@dataclasses.dataclass(frozen=True)
class Cost:
    """One line: ``measure`` gives a number and what is to be said of it; it is to be at most ``aim``."""

    name: str
    measure: Callable[[], tuple[float, str]]
    aim: float | None
    unit: str

    def line(self, limit: float) -> tuple[str, ...]:
        aim = "" if self.aim is None else f"{self.aim:g} {self.unit}"
        try:
            with limited(limit):
                number, said = self.measure()
        except Exception as error:
            return (self.name, f"{type(error).__name__}: {error}", aim, "missed")
        met = "" if self.aim is None else "met" if number <= self.aim else "missed"
        return (self.name, said or f"{number:.3g} {self.unit}", aim, met)


def costs() -> list[Cost]:
    found = [
        Cost("a call's fixed cost", lambda: (fixed_cost(training=False), ""), 40, "us"),
        Cost("a call's fixed cost, training", lambda: (fixed_cost(training=True), ""), None, "us"),
    ]
    for name, make in BUILDS.items():
        found.append(Cost(f"build {name}", functools.partial(_build, make), 50, "ms"))
    found.append(Cost("import sst_cvx, polytopes over torch", _import, 0.4, "s"))
    return found + [
        Cost(f"first call, {name}", functools.partial(_first, work), None, "s") for name, work in FIRST.items()
    ]


def fixed_cost(training: bool, seconds: float = 2.0) -> float:
    """Microseconds."""
    soft = sst.SoftArgmax(polytopes.OneHot(5), sst.CategoricalEntropy())
    u = torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"soft": soft, "bare": lambda u: u.softmax(-1)}
    repeats = 100

    def turn(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for _ in range(repeats):
            if training:
                leaf = u.detach().requires_grad_()
                function(leaf).backward(u)
            else:
                function(u)

    for function in functions.values():
        turn(function)
    calls = {name: functools.partial(turn, function) for name, function in functions.items()}
    samples = interleaved(calls, seconds, clock=time.process_time)
    soft_time, bare = (statistics.median(samples[name]) / repeats for name in functions)
    return 1e6 * (soft_time - bare)


def _chain(edges: int) -> sst.SoftArgmax:
    return sst.SoftArgmax(polytopes.Path(*graph(edges // 400 + 1, 20)), sst.ExponentialFamilyEntropy())


BUILDS: dict[str, Callable[[], object]] = {
    "OneHot(128000)": lambda: sst.SoftArgmax(polytopes.OneHot(128_000), sst.CategoricalEntropy()),
    "KSubset(128000, 1000)": lambda: sst.SoftArgmax(polytopes.KSubset(128_000, 1000), sst.Euclidean()),
    "Path, chain of 39,640 edges": lambda: _chain(39_600),
    "Path, chain of 100,040 edges": lambda: _chain(100_000),
}


def _build(make: Callable[[], object]) -> tuple[float, str]:
    sst.SoftArgmax(polytopes.KSubset(6, 2), sst.Euclidean())
    start = time.process_time()
    make()
    return 1e3 * (time.process_time() - start), ""


def _import() -> tuple[float, str]:
    seconds = {}
    for code in ("import torch", "import torch, sst_cvx, polytopes"):
        spent = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", code], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        seconds[code] = min(spent)
    torch_alone, ours = seconds.values()
    return ours - torch_alone, f"{ours - torch_alone:.2f} s (torch alone {torch_alone:.2f})"


#: name -> (structure, regularizer or None for the hard argmax), as code
FIRST = {
    "softmax": ("polytopes.OneHot(20)", "sst.CategoricalEntropy()"),
    "sparsemax": ("polytopes.OneHot(20)", "sst.Euclidean()"),
    "entmax15": ("polytopes.OneHot(20)", "sst.TsallisEntropy(1.5)"),
    "KSubset binary": ("polytopes.KSubset(20, 5)", "sst.BinaryEntropy()"),
    "soft ranks": ("polytopes.Permutahedron(torch.arange(20.0))", "sst.Euclidean()"),
    "Matching categorical": ("polytopes.Matching(5)", "sst.CategoricalEntropy()"),
    "tree marginals": ("polytopes.SpanningTree(6)", "sst.ExponentialFamilyEntropy()"),
    "arborescence marginals": ("polytopes.Arborescence(6)", "sst.ExponentialFamilyEntropy()"),
    "maximum spanning tree": ("polytopes.SpanningTree(6)", None),
    "maximum arborescence": ("polytopes.Arborescence(6)", None),
    "declared hull, Euclidean": ("k_subset(20, 5)", "sst.Euclidean()"),
    "declared hull, categorical": ("k_subset(20, 5)", "sst.CategoricalEntropy()"),
    "active set (Arborescence Euclidean)": ("polytopes.Arborescence(5)", "sst.Euclidean()"),
}

_WORKER = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import torch, polytopes, sst_cvx as sst
from tests.hulls import k_subset
torch.set_num_threads(1)
structure, regularizer = json.loads(sys.argv[1])
structure = eval(structure)
u = torch.randn(4, *structure.event_shape, dtype=torch.float64, requires_grad=regularizer is not None)
call = structure.argmax if regularizer is None else sst.SoftArgmax(structure, eval(regularizer))
spent = []
for _ in range(2):
    start = time.process_time()
    x = call(u)
    if regularizer is not None:
        x.backward(torch.ones_like(x))
    spent.append(time.process_time() - start)
print(spent[0] - spent[1])
"""


def _first(work: tuple[str, str | None]) -> tuple[float, str]:
    with tempfile.TemporaryDirectory() as cache:
        environments = ({"NUMBA_CACHE_DIR": cache}, {"NUMBA_CACHE_DIR": cache}, {"SST_CVX_NATIVE": "0"})
        cold, warm, off = (_worker(work, changes) for changes in environments)
    return cold, f"{cold:.2f} s cold, {warm:.2f} cached, {off:.2f} without"


def _worker(work: tuple[str, str | None], changes: dict[str, str]) -> float:
    command = [sys.executable, "-c", _WORKER, json.dumps(work)]
    done = subprocess.run(command, env=os.environ | changes, check=True, capture_output=True, text=True)
    return float(done.stdout)
