"""On an accelerator: every fast pair as on the CPU, without waiting for the device, and in CUDA graphs.

Planted failures run on the CPU too, where a guard is chosen as an accelerator has it. All random numbers are made on
the CPU, and what waits for the device is never captured: a capture that fails would spoil later tests.
"""

from __future__ import annotations

import contextlib
import json

import cvxpy as cp
import pytest
import torch

import polytopes
import sst_cvx as sst
from benchmarks import device as table
from benchmarks.device_measure import Operations, capture, count_syncs
from examples.graph_layout import train
from tests.hulls import pairs
from tests.oracles import fast_pairs

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=on_cuda)]
FAST = fast_pairs()
SOLVED = [
    (pairs(), sst.Euclidean()),
    (pairs(), sst.BinaryEntropy()),
    (polytopes.SpanningTree(4), sst.Euclidean()),
    (polytopes.CorrelatedKSubset(5, 2), sst.Euclidean()),
]


def utilities(structure: sst.Structure, seed: int = 0) -> torch.Tensor:
    """Six elements of scales 0.1 to 10, float64, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(6, *structure.event_shape, generator=generator, dtype=torch.float64)
    scales = torch.tensor([0.1, 0.3, 1.0, 1.0, 3.0, 10.0], dtype=torch.float64)
    return u * scales.reshape(-1, *[1] * (u.dim() - 1))


def answer(soft, u, v, t=0.7, **more):
    """Value, and gradient with cotangents v."""
    leaf = u.clone().requires_grad_()
    x = soft(leaf, t, **more)
    return x.detach(), torch.autograd.grad(x, leaf, v)[0]


def assert_same(found, expected):
    for name, a, b in zip(("value", "gradient"), found, expected, strict=True):
        tolerance = 1e-9 if name == "value" else 1e-7
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


@contextlib.contextmanager
def no_wait():
    """Whatever waits for the device raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# -- every fast pair ----------------------------------------------------------------------------------------------


@on_cuda
@pytest.mark.parametrize(("structure", "regularizer"), [*FAST, *SOLVED], ids=repr)
def test_as_on_the_cpu(structure, regularizer):
    soft, u = sst.SoftArgmax(structure, regularizer), utilities(structure)
    v = utilities(structure, seed=1)
    found = answer(soft, u.cuda(), v.cuda())
    sst.synchronize()
    assert all(part.is_cuda for part in found)
    assert_same(found, answer(soft, u, v))


@on_cuda
@pytest.mark.parametrize(("structure", "regularizer"), FAST, ids=repr)
def test_nothing_waits_for_the_device(structure, regularizer):
    soft, u = sst.SoftArgmax(structure, regularizer), utilities(structure).cuda()
    v, t = utilities(structure, seed=1).cuda(), torch.full((6,), 0.7, dtype=torch.float64, device="cuda")

    def calls():
        answer(soft, u, v)
        answer(soft, u.float(), v.float())
        answer(soft, u, v, t)

    calls()  # constants move to the device, once
    sst.synchronize()
    with no_wait():
        calls()
    sst.synchronize()


@on_cuda
@pytest.mark.parametrize(("structure", "regularizer"), FAST, ids=repr)
def test_graphs_replay_with_new_inputs(structure, regularizer):
    soft, u = sst.SoftArgmax(structure, regularizer), utilities(structure).cuda()
    v = utilities(structure, seed=1)
    cotangent = v.cuda()
    t = torch.full((6,), 0.7, dtype=torch.float64, device="cuda")

    def call():
        return answer(soft, u, cotangent, t)

    call()
    sst.synchronize()
    assert count_syncs(call) == 0
    sst.synchronize()
    graph, found = capture(call)
    sst.synchronize()
    for seed, temperature in ((2, 0.7), (3, 1.3)):
        u.copy_(utilities(structure, seed))
        t.fill_(temperature)
        graph.replay()
        assert_same(found, answer(soft, utilities(structure, seed), v, temperature))


@on_cuda
@pytest.mark.parametrize(
    ("structure", "regularizer"),
    [
        (polytopes.OneHot(5), sst.CategoricalEntropy()),
        (polytopes.KSubset(6, 2), sst.Euclidean()),
        (polytopes.Matching(4), sst.CategoricalEntropy()),
        (polytopes.SpanningTree(4), sst.ExponentialFamilyEntropy()),
    ],
    ids=repr,
)
def test_masks_wait_for_nothing_either(structure, regularizer):
    soft, u = sst.SoftArgmax(structure, regularizer), utilities(structure)
    v = utilities(structure, seed=1)
    mask = torch.ones(u.shape, dtype=torch.bool)
    mask[0].view(-1)[0] = False
    answer(soft, u.cuda(), v.cuda(), mask=mask.cuda())
    on_device = u.cuda(), v.cuda(), mask.cuda()
    with no_wait():
        found = answer(soft, *on_device[:2], mask=on_device[2])
    sst.synchronize()
    assert_same(found, answer(soft, u, v, mask=mask))


# -- planted failures ---------------------------------------------------------------------------------------------


class _Planted(sst.Structure):
    """One of five; its fast path returns garbage where the first utility is large."""

    def __init__(self) -> None:
        x = cp.Variable(5)
        super().__init__(x, [x >= 0, cp.sum(x) == 1])


@sst.fast_path(_Planted, sst.CategoricalEntropy)
def _garbage(structure, regularizer, u):
    x = u.softmax(-1)
    return torch.where(u[..., :1] > 100, x + 1, x)


def assert_failed(found, expected, row):
    """NaN in that row, value and gradient, and right elsewhere."""
    others = [i for i in range(len(expected[0])) if i != row]
    assert bool(found[0][row].isnan().any())
    assert bool(found[1][row].isnan().any())
    assert_same([part[others] for part in found], [part[others] for part in expected])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, 1e3], ids=["nan", "infinite", "garbage"])
def test_planted_failures(device, wrong):
    soft = sst.SoftArgmax(_Planted(), sst.CategoricalEntropy())
    u, v = utilities(soft.structure), utilities(soft.structure, seed=1)
    expected = answer(soft, u, v)
    u[3, 0] = wrong
    with sst.guard("nan" if device == "cpu" else None):
        assert_failed(answer(soft, u.to(device), v.to(device)), expected, 3)
        with pytest.raises(sst.SolveError, match="batch element 3"):
            sst.synchronize()
        sst.synchronize()  # told once
        answer(soft, u.to(device), v.to(device))
        if device == "cuda":
            torch.cuda.synchronize()
        with pytest.raises(sst.SolveError):
            soft(torch.zeros(5, dtype=torch.float64, device=device))
        sst.synchronize()


@pytest.mark.parametrize("device", DEVICES)
def test_infeasible_parameters(device):
    x, cap = cp.Variable(4), cp.Parameter(nonneg=True, name="cap")
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= cap, cp.sum(x) == 1]), sst.Euclidean())
    u, v = utilities(soft.structure), utilities(soft.structure, seed=1)
    cap = torch.tensor([0.5, 0.6, 0.7, 0.5, 0.9, 1.0], dtype=torch.float64)
    expected = answer(soft, u, v, cap=cap)
    cap[2] = 0.1
    with sst.guard("nan" if device == "cpu" else None):
        assert_failed(answer(soft, u.to(device), v.to(device), cap=cap.to(device)), expected, 2)
        with pytest.raises(sst.SolveError):
            sst.synchronize()


@on_cuda
def test_failures_in_a_graph_are_nan_and_no_error():
    soft = sst.SoftArgmax(_Planted(), sst.CategoricalEntropy())
    u, v = utilities(soft.structure), utilities(soft.structure, seed=1)
    expected, static, cotangent = answer(soft, u, v), u.cuda(), v.cuda()
    graph, found = capture(lambda: answer(soft, static, cotangent))
    sst.synchronize()
    for wrong in (torch.nan, torch.inf, 1e3):
        u[3, 0] = wrong
        static.copy_(u)
        graph.replay()
        assert_failed(found, expected, 3)
        sst.synchronize()


# -- whole training steps -----------------------------------------------------------------------------------------


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@on_cuda
@pytest.mark.parametrize("edges", ["independent", "top", "tree"])
def test_training_waits_at_validation_only(edges, tmp_path):
    run = train.Run(train.Settings(**train.PRESETS["tiny"], edges=edges), tmp_path, "cuda")
    run.model.train()
    for _ in range(2):
        run.advance()
    with no_wait():
        for _ in range(4):
            run.advance()
    sst.synchronize()


@on_cuda
@pytest.mark.parametrize("edges", ["independent", "top", "tree"])
def test_training_in_a_graph_is_the_same_run(edges, tmp_path, monkeypatch):
    options = ["--preset", "tiny", "--edges", edges, "--device", "cuda", "--folder"]
    train.main([*options, str(tmp_path / "eager")])
    train.main([*options, str(tmp_path / "graph"), "--graph"])
    assert losses(tmp_path / "graph") == pytest.approx(losses(tmp_path / "eager"), rel=1e-3)
    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    step = train.Run._batch

    def killed(self):
        if self.step == 25:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(train.Run, "_batch", killed)
        with pytest.raises(KeyboardInterrupt, match="holds step 25 of 40"):
            train.main([*options, str(tmp_path / "parts"), "--graph"])
    train.main([*options, str(tmp_path / "parts"), "--graph"])
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "graph"), rel=1e-3)


@on_cuda
def test_divergence_in_a_graph_is_said(tmp_path):
    with pytest.raises(FloatingPointError, match="learning-rate"):
        train.main(
            ["--preset", "tiny", "--device", "cuda", "--graph", "--learning-rate", "1e9", "--folder", str(tmp_path)]
        )


# -- the table ----------------------------------------------------------------------------------------------------


def test_the_table_goes_on(monkeypatch, capfd):
    """A case that raises, one that kills its process, one that takes too long, and one that works."""
    broken = table.Case("broken", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    killed = table.Case("killed", lambda: __import__("os")._exit(3))
    slow = table.Case("slow", lambda: __import__("time").sleep(60))  # type: ignore[arg-type, return-value]
    works = table.Case("works", lambda: (lambda u: u * 2, (3,)))
    monkeypatch.setattr(table, "all_cases", lambda: [broken, killed, slow, works])
    table.main(["--device", "cpu", "--quick", "--limit", "2"])
    rows = capfd.readouterr().out.splitlines()[4:]
    assert "ZeroDivisionError" in rows[0]
    assert "died (3)" in rows[1]
    assert "longer than 2 s" in rows[2]
    assert [row.split(" | ")[2] for row in rows[3:]] == ["forward", "and backward"]
    assert len({row.count("|") for row in rows}) == 1


def test_what_is_counted():
    x = torch.arange(6.0)
    with Operations() as seen:
        _ = x.view(2, 3).sum() + 1  # two operations, no read
        torch.empty(3)
    assert (seen.launched, seen.reads) == (2, 0)
    with Operations() as seen:
        bool(x.sum() > 0)
        x[x > 2]
        torch.equal(x, x)
        x.nonzero()
    assert seen.reads == 4
