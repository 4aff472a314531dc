"""Whatever is computed once and kept, in whichever mode of the caller's, never poisons a later training step.

First evaluations inside a hostile mode; then a training step in float64, of the same instance, of an equal one, of
copies: bit for bit as if nothing had been before.
"""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import polytopes
import sst_cvx as sst
from tests.hulls import pairs, trees_by_martin

REGULARIZERS = (sst.ExponentialFamilyEntropy(), sst.Euclidean(), sst.CategoricalEntropy())
STRUCTURES = [*polytopes.EXAMPLES, trees_by_martin(4), pairs()]


def fresh(structure: sst.Structure) -> sst.Structure:
    """An equal one, with nothing computed."""
    return pickle.loads(pickle.dumps(structure))


def softs(structure: sst.Structure, count: int = 3) -> list[sst.SoftArgmax]:
    """Of the first few regularizers that there is a path for."""
    found = []
    for f in REGULARIZERS:
        with contextlib.suppress(ValueError):
            found += [sst.SoftArgmax(structure, f)] if len(found) < count else []
    return found


def evaluate(structure: sst.Structure, u: torch.Tensor, made: list[sst.SoftArgmax]) -> None:
    """All that fills a cache."""
    structure.argmax(u)
    for soft in made:
        soft(u, 0.7)
    if structure.has_log_partition():
        structure.log_partition(u)
        sst.ExponentialFamily(structure, u).mean  # noqa: B018
    if structure.binary:
        mask = torch.ones_like(u, dtype=torch.bool)
        structure.masked_argmax(u, mask)
        for soft in made:
            soft(u, 0.7, mask=mask)


def train(structure: sst.Structure, made: list[sst.SoftArgmax]) -> list[torch.Tensor]:
    """Values and gradients of a training step in float64."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(3, *structure.event_shape, dtype=torch.float64, generator=generator).requires_grad_()
    found = [structure.argmax(u)]
    asked: list[Callable[[torch.Tensor], torch.Tensor]] = [lambda v, soft=soft: soft(v, 0.7) for soft in made]
    if structure.has_log_partition():
        asked.append(structure.log_partition)
    if structure.binary:
        mask = torch.ones(structure.event_shape, dtype=torch.bool)
        asked += [lambda v, soft=soft: soft(v, 0.7, mask=mask) for soft in made]
    for ask in asked:
        x = ask(u)
        (g,) = torch.autograd.grad(x.square().sum(), u)
        found += [x.detach(), g]
    return found


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


#: Evaluates for the first time, in some mode. Softs may have been made before it.
Hostile = Callable[[sst.Structure, list[sst.SoftArgmax]], None]


def within(mode: Callable[[], contextlib.AbstractContextManager]) -> Hostile:
    def hostile(structure: sst.Structure, made: list[sst.SoftArgmax]) -> None:
        with mode():
            inside = softs(structure, len(made))
            for each in (made, inside):
                evaluate(structure, torch.randn(2, *structure.event_shape, device="cpu", dtype=torch.float32), each)

    return hostile


def faked(structure: sst.Structure, made: list[sst.SoftArgmax]) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        for soft in made:
            if soft.path == "fast":
                soft(torch.empty(2, *structure.event_shape), 0.7)
        if structure.argmax_on_device:
            structure.argmax(torch.empty(2, *structure.event_shape))
        if structure.has_log_partition():
            structure.log_partition(torch.empty(2, *structure.event_shape))


def mapped(structure: sst.Structure, made: list[sst.SoftArgmax]) -> None:
    u = torch.randn(2, *structure.event_shape)
    torch.func.vmap(structure.argmax)(u)
    for soft in made:
        torch.func.vmap(torch.func.grad(lambda v, soft=soft: soft(v, 0.7).square().sum()))(u)
    if structure.has_log_partition():
        torch.func.vmap(structure.log_partition)(u)


def compiled(structure: sst.Structure, made: list[sst.SoftArgmax]) -> None:
    torch._dynamo.reset()
    for soft in made:
        torch.compile(lambda v, soft=soft: soft(v, 0.7), backend="eager", fullgraph=True)(
            torch.randn(2, *structure.event_shape)
        )


def elsewhere(structure: sst.Structure, made: list[sst.SoftArgmax]) -> None:
    """Another thread, which evaluates in inference mode while this one does nothing of the kind."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            within(torch.inference_mode)(structure, made)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed, failed


HOSTILE: dict[str, Hostile] = {
    "inference": within(torch.inference_mode),
    "no_grad": within(torch.no_grad),
    "meta": within(lambda: torch.device("meta")),
    "autocast": within(lambda: torch.autocast("cpu", torch.bfloat16)),
    "float64 by default": within(lambda: default_dtype(torch.float64)),
    "float16 by default": within(lambda: default_dtype(torch.float16)),
    "fake": faked,
    "vmap": mapped,
    "thread": elsewhere,
}


def check(structure: sst.Structure, mode: str, count: int) -> None:
    def answers(s: sst.Structure) -> list[torch.Tensor]:
        return train(s, softs(s, count))

    expected, first = answers(fresh(structure)), fresh(structure)
    made = softs(first, count)
    (HOSTILE | {"compile": compiled})[mode](first, made)
    after = [train(first, made), answers(fresh(structure))]
    if count > 1:
        after += [answers(first), answers(copy.deepcopy(first)), answers(fresh(first))]
    for found in after:
        for mine, right in zip(found, expected, strict=True):
            assert not mine.is_inference()
            assert torch.equal(mine, right)


#: One of each class.
SOME = list({type(s): s for s in STRUCTURES}.values())


@pytest.mark.parametrize("structure", SOME, ids=repr)
def test_some_modes(structure):
    check(structure, random.Random(repr(structure)).choice(list(HOSTILE)), 1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("mode", [*HOSTILE, "compile"])
@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_all_modes(structure, mode):
    check(structure, mode, 3)


PROCESS = """
import sys, torch
torch.set_num_threads(1)
from tests.test_caches import HOSTILE, STRUCTURES, softs, train
made = [softs(structure) for structure in STRUCTURES]
if sys.argv[1]:
    for structure, each in zip(STRUCTURES, made):
        HOSTILE[sys.argv[1]](structure, each)
torch.save([train(structure, each) for structure, each in zip(STRUCTURES, made)], sys.argv[2])
"""


def in_another_process(mode: str, path: Path) -> list[list[torch.Tensor]]:
    """What a process learns whose first evaluations of all structures were in that mode."""
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", PROCESS, mode, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]
    return torch.load(path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("mode", HOSTILE)
def test_whole_processes(mode, tmp_path):
    expected, found = (in_another_process(m, tmp_path / "answers") for m in ("", mode))
    for ours, right in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, right, strict=True))
