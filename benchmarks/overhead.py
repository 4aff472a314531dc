"""``python -m benchmarks.overhead OTHER_CHECKOUT``: what a call of ``SoftArgmax`` costs here, beside another commit.

Small problems, where checking and dispatch are most of the time. Each checkout runs in a process of its own, one torch
thread, and the two take turns; CPU time, so that other processes on the machine count little. The ratio is the median
over turns of (this one / the other), with its quartiles.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

# Runs in both checkouts, so it uses nothing but public names.
WORKER = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import torch, sst_cvx as sst, polytopes
torch.set_num_threads(1)
out, sys.stdout = sys.stdout, sys.stderr

def one_call(structure, regularizer, batch, backward):
    soft = sst.SoftArgmax(structure, regularizer)
    shape = (batch, *structure.event_shape)
    u, v = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    def forward():
        with torch.no_grad():
            soft(u, 0.5)
    def both():
        leaf = u.detach().requires_grad_()
        soft(leaf, 0.5).backward(v)
    return both if backward else forward

regularizers = {"softmax": sst.CategoricalEntropy(), "Euclidean": sst.Euclidean(), "binary": sst.BinaryEntropy(),
    "categorical": sst.CategoricalEntropy(), "Tsallis": sst.TsallisEntropy(1.5),
    "exponential family": sst.ExponentialFamilyEntropy()}
structures = {"OneHot": (polytopes.OneHot(20), 32), "KSubset": (polytopes.KSubset(20, 5), 32),
    "AtMostKSubset": (polytopes.AtMostKSubset(20, 5), 32), "Matching": (polytopes.Matching(4), 32)}
cases = {}
for line in sys.stdin:
    structure, regularizer, backward, seconds = json.loads(line)
    key = structure, regularizer, backward
    if key not in cases:
        cases[key] = one_call(*structures[structure][:1], regularizers[regularizer], structures[structure][1], backward)
        for _ in range(20):
            cases[key]()
    count, start, call = 0, time.process_time(), cases[key]
    while time.process_time() - start < seconds:
        for _ in range(10):
            call()
        count += 10
    print((time.process_time() - start) / count, file=out, flush=True)
"""

CASES = [
    ("OneHot", "softmax"),
    *(("KSubset", f) for f in ("Euclidean", "categorical", "binary", "Tsallis", "exponential family")),
    ("AtMostKSubset", "Euclidean"),
    ("Matching", "categorical"),
]


class Checkout:
    """The worker in one checkout."""

    def __init__(self, path: pathlib.Path):
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER], cwd=path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def seconds(self, *case: object) -> float:
        """CPU seconds of one call."""
        streams = self._process.stdin, self._process.stdout
        assert streams[0] is not None
        assert streams[1] is not None
        streams[0].write(json.dumps(case) + "\n")
        streams[0].flush()
        return float(streams[1].readline())

    def close(self) -> None:
        self._process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("other", type=pathlib.Path, help="a checkout of the commit to compare with")
    parser.add_argument("--turns", type=int, default=25, help="of each checkout, for each case")
    parser.add_argument("--seconds", type=float, default=0.05, help="of one turn")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    if not (args.other / "sst_cvx").is_dir():
        parser.error(f"{args.other} is no checkout of sst-cvx.")
    here, other = Checkout(pathlib.Path(__file__).parents[1]), Checkout(args.other)
    print("| batch of 32, float32 | | other us | this us | this / other | quartiles |\n|---|---|---|---|---|---|")
    for structure, regularizer in CASES:
        if args.only not in f"{structure} {regularizer}":
            continue
        for backward in (False, True):
            case = structure, regularizer, backward, args.seconds
            turns = [(other.seconds(*case), here.seconds(*case)) for _ in range(args.turns)]
            ratios = [new / old for old, new in turns]
            low, middle, high = statistics.quantiles(ratios, n=4)
            old, new = (1e6 * statistics.median(times) for times in zip(*turns, strict=True))
            name = f"{structure} {regularizer} | {'forward and backward' if backward else 'forward'}"
            print(f"| {name} | {old:.0f} | {new:.0f} | {middle:.2f} | {low:.2f} to {high:.2f} |", flush=True)
    for checkout in (here, other):
        checkout.close()


if __name__ == "__main__":
    main()
