"""The layout example: its simulator against networkx, its objective, resumption, two processes."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pathlib
import subprocess
import sys
import types
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import torch
from torch.distributions import Gumbel

import sst_cvx as sst
from benchmarks.device_measure import Operations
from examples.graph_layout import data, plot, table, train
from examples.graph_layout.edges import EdgeDistribution, to_directed
from examples.graph_layout.evaluate import evaluate
from examples.graph_layout.mirror import centre, reflect
from examples.graph_layout.model import Model
from examples.graph_layout.step import CapturedStep, Step

ROOT = pathlib.Path(__file__).parent.parent


def test_layout_step_is_networkxs():
    generator = torch.Generator().manual_seed(0)
    edges = data.random_trees(60, generator)
    matrix = data.adjacency(edges)
    x = torch.randn(60, 10, 2, dtype=torch.float64, generator=generator)
    x[:5] *= 1e-3  # all distances clipped
    for _ in range(5):
        following = data.layout_step(x, matrix, "today")
        for i in range(60):
            graph = nx.from_numpy_array(matrix[i].numpy())
            start = {v: x[i, v].numpy() for v in range(10)}
            end = nx.spring_layout(graph, pos=start, iterations=1, threshold=1e-10, center=[0, 0])
            np.testing.assert_allclose(np.stack([end[v] for v in range(10)]), following[i], rtol=0, atol=1e-10)
        x = following


def test_data():
    part = data.simulate(300, 7, seed=1)
    assert part.positions.shape == (300, 10, 7, 2)
    for edges in part.edges[:20]:
        assert nx.is_tree(nx.from_numpy_array(data.adjacency(edges).numpy()))
    torch.testing.assert_close(part.positions.mean(1), torch.zeros(300, 7, 2), rtol=0, atol=1e-5)
    small = [p.positions for p in data.make((100, 50, 50), 5)]
    assert (float(small[0].amin()), float(small[0].amax())) == pytest.approx((-1, 1))
    torch.testing.assert_close(data.make((100, 50, 50), 5)[2].positions, small[2])
    rules = [data.simulate(500, 10, seed=2, rule=rule).positions for rule in data.RULES]
    differ = (rules[0] != rules[1]).flatten(1).any(1).float().mean()
    assert 0 < float(differ) < 0.06  # the two rules of networkx part on few trajectories


@pytest.mark.parametrize("name", ["independent", "top", "tree"])
def test_edges_and_divergence(name):
    torch.manual_seed(0)
    edges = EdgeDistribution(name)
    logits = torch.randn(4, 90, edges.outputs)
    for hard in (False, True):
        x = edges.sample(logits, 0.5, hard, torch.Generator().manual_seed(0))
        assert x.shape == (4, 90)
        if name != "independent":
            torch.testing.assert_close(x.sum(1), torch.full((4,), 18.0), rtol=0, atol=1e-4)
        assert not hard or bool(((x == 0) | (x == 1)).all())
    mu = edges.utilities(logits).loc.flatten(1)
    count = 1 if name == "independent" else 2
    torch.testing.assert_close(edges.divergence(logits), count * (mu + (-mu).exp() - 1).sum(1) / 10)
    assert isinstance(edges.utilities(logits), Gumbel)


def test_teacher_forcing_and_roll_out():
    model = Model(6, 8, EdgeDistribution("tree"), roll_out=5).eval()
    positions = data.simulate(3, 6, seed=0).positions
    target, edges = positions.transpose(1, 2), torch.rand(3, 90)
    forced = model._predict(target, edges, 1)
    torch.testing.assert_close(forced, model.decoder(target[:, :-1], edges))
    rolled, x = model._predict(target, edges, 5), target[:, :1]
    for step in range(5):
        x = model.decoder(x, edges)
        torch.testing.assert_close(rolled[:, step : step + 1], x)
    assert model._predict(target, edges, 2).shape == forced.shape


def test_perfect_edges_score_100(monkeypatch):
    part = data.simulate(20, 5, seed=0)
    model = Model(5, 8, EdgeDistribution("tree"), roll_out=4)
    monkeypatch.setattr(model.encoder, "forward", lambda positions: 1e3 * (to_directed(part.edges)[..., None] - 0.5))
    metrics = evaluate(model, part)
    assert (metrics["precision"], metrics["recall"]) == pytest.approx((100, 100))


def start(folder, *options):
    return train.main(["--preset", "tiny", "--folder", str(folder), *options])


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_improves_and_resumes(tmp_path, monkeypatch):
    """Killed while the mirror competes (steps 10 to 20)."""
    whole = start(tmp_path / "whole")
    assert losses(tmp_path / "whole")[-1] < losses(tmp_path / "whole")[0]
    monkeypatch.setattr(train.Run, "save_every", 0.0)
    batch = train.Run._batch

    def killed(self):
        if self.done == 15:
            raise KeyboardInterrupt
        return batch(self)

    with monkeypatch.context() as patch:
        patch.setattr(train.Run, "_batch", killed)
        with pytest.raises(KeyboardInterrupt, match="holds step 15 of 40: the same command goes on"):
            start(tmp_path / "parts")
    resumed = start(tmp_path / "parts")
    assert resumed == whole
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"other settings \(seed: 0 there, 5 here\).*--folder"):
        start(tmp_path / "parts", "--seed", "5")


def test_the_mirror_exchanges_labels(tmp_path):
    run = train.Run(train.PRESETS["tiny"], tmp_path)
    for _ in range(3):
        run._advance()
    before, model = copy.deepcopy((run.model.state_dict(), run.optimizer.state_dict())), run.model.eval()
    x, edges = torch.randn(2, 3, 10, 2), torch.rand(2, 90)
    one, logits = model.decoder(x, edges), model.encoder(run.positions[:2])
    elbo = evaluate(model, run.parts[1])["elbo"]
    reflect(model, run.optimizer)
    torch.testing.assert_close(model.decoder(x, 1 - edges), one)
    torch.testing.assert_close(model.encoder(run.positions[:2]), -logits)
    reflected = evaluate(model, run.parts[1])
    centre(model, run.positions)
    centred = evaluate(model, run.parts[1])
    assert centred["nll"] == pytest.approx(reflected["nll"])  # no tree is another one
    assert centred["kl"] < reflected["kl"]
    model.load_state_dict(before[0])
    run.optimizer.load_state_dict(copy.deepcopy(before[1]))
    for _ in range(2):
        reflect(model, run.optimizer)
    assert evaluate(model, run.parts[1])["elbo"] == elbo
    for kept, now in zip(before[1]["state"].values(), run.optimizer.state_dict()["state"].values(), strict=True):
        for name, value in kept.items():
            assert torch.equal(now[name], value)


@pytest.mark.parametrize("better", [False, True])
def test_the_better_of_both_goes_on(better, tmp_path, monkeypatch):
    run = train.Run(replace(train.PRESETS["tiny"], mirror_at=2, mirror_steps=2), tmp_path)
    for _ in range(4):
        run._advance()
    assert run._mirror is not None
    rival, scores = run._mirror.model, {"precision": 0.0, "recall": 0.0}
    own, its = run.model.state_dict(), rival.state_dict()
    monkeypatch.setattr(train, "evaluate", lambda model, part: scores | {"elbo": float((model is rival) == better)})
    expected, place = {k: v.clone() for k, v in (its if better else own).items()}, run.model.encoder.out.bias.data_ptr()
    run._judge()
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, expected[name])
    assert run.model.encoder.out.bias.data_ptr() == place  # of a captured step
    assert run._mirror is None
    assert (run.judged["own elbo"], run.judged["mirror elbo"]) == (float(not better), float(better))


@pytest.mark.parametrize("name", ["independent", "top"])
def test_trees_alone_have_a_rival(name, tmp_path):
    run = train.Run(replace(train.PRESETS["tiny"], edges=name, mirror_at=1), tmp_path)
    for _ in range(3):
        run._advance()
    assert run._mirror is None


def test_divergence_is_said(tmp_path):
    with pytest.raises(FloatingPointError, match="learning-rate"):
        start(tmp_path, "--learning-rate", "1e9")


def test_a_graph_needs_a_cuda_device(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        start(tmp_path, "--graph")
    assert capsys.readouterr().err.splitlines()[-1].endswith("--graph: a CUDA graph needs a CUDA device, got 'cpu'.")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one process" in train.no_graph("cuda")


@pytest.mark.parametrize("name", ["independent", "top", "tree"])
def test_a_step_asks_nothing_of_the_host(name):
    """As on an accelerator. (The optimizer is plain: Adam keeps its count of steps on the CPU where it can.)"""
    torch.manual_seed(0)
    model = Model(5, 8, EdgeDistribution(name), roll_out=4)
    step = Step(model, torch.optim.SGD(model.parameters(), lr=1e-3), 0.5)
    positions = data.simulate(8, 5, seed=0).positions
    with sst.guard("nan"):
        step(positions, 0)
        with Operations() as seen:
            step(positions, 1)
    assert seen.reads == 0
    sst.synchronize()


class _Replayed:
    """Stands for a CUDA graph: what was captured runs again, on the same tensors."""

    def __init__(self, step):
        self.step = step

    def replay(self):
        self.step._loss.copy_(Step._run(self.step, self.step._positions))


def test_replays_are_the_same_run(tmp_path, monkeypatch):
    """All but CUDA: warm-up steps count, batches and seeds reach replays, validation leaves weights in place."""
    start(tmp_path / "eager")
    monkeypatch.setattr(train, "no_graph", lambda device: "")
    stream = types.SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())

    def captured(self):
        self._loss = torch.empty(())
        return _Replayed(self)

    monkeypatch.setattr(CapturedStep, "_captured", captured)
    start(tmp_path / "graph", "--graph")
    assert losses(tmp_path / "graph") == losses(tmp_path / "eager")


def test_seeds_side_by_side_are_those_alone(tmp_path):
    chosen = ("--steps", "6", "--validate-every", "3", "--mirror-at", "2", "--mirror-steps", "2", "--roll-out", "2")
    start(tmp_path / "both", *chosen, "--together", "2")
    for seed in (0, 1):
        start(tmp_path / str(seed), *chosen, "--seed", str(seed))
        assert losses(tmp_path / "both" / f"seed-{seed}") == losses(tmp_path / str(seed))


def test_settings_are_options(tmp_path):
    """So the paper's preset is trained by teacher forcing, or with a decay."""
    chosen = ("--roll-out", "1", "--decay", "cosine", "--steps", "2", "--mirror-at", "0")
    found = start(tmp_path, *chosen)
    assert (found["roll_out"], found["decay"], "own elbo" in found) == (1, "cosine", False)


def test_table_counts_edge_types():
    right, wrong = {"elbo": -1.0, "precision": 90.0, "recall": 90.0}, {"elbo": -3.0, "precision": 23.0, "recall": 90.0}
    judged = {"own precision": 22.0, "own recall": 89.0}
    text = table.markdown({"tree": [right | judged, right, wrong], "independent": [right]})
    assert text.splitlines()[2:] == [
        "| tree | -1.7 ± 1.2 | 67.7 ± 38.7 | 90.0 ± 0.0 | 2 of 3 | 0 of 1 |",
        "| independent | -1.0 | 90.0 | 90.0 |  |  |",
    ]


def test_unfinished_runs_have_no_picture(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        plot.draw([tmp_path], tmp_path / "picture.png")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["independent", "tree"])
def test_two_processes_are_one(name, tmp_path):
    """The same losses as one process with the joined batch, and the same model at the end; a rival is tried, too."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    chosen = ["--steps", "10", "--mirror-at", "4", "--mirror-steps", "4", "--roll-out", "2", "--edges", name]
    ends, logged = [], []
    for count in (1, 2):
        folder = tmp_path / str(count)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command = [*launcher, "-m", "examples.graph_layout.train", "--preset", "tiny", *chosen]
        done = subprocess.run(
            [*command, "--folder", str(folder)],
            capture_output=True,
            text=True,
            timeout=200,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        logged.append(losses(folder))
        ends.append(torch.load(folder / "best.pt", weights_only=True)["model"])
    assert logged[1] == pytest.approx(logged[0], rel=1e-4)
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.slow
def test_pictures_are_drawn(tmp_path):
    for name in ("tree", "independent"):
        start(tmp_path / name, "--steps", "20", "--edges", name)
    plot.draw([tmp_path / "tree", tmp_path / "independent"], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "wrong",
    [
        *[{"steps": 0}, {"batch": 0}, {"batch": 50_001}, {"temperature": 0.0}, {"roll_out": 10}, {"seed": -1}],
        *[{"learning_rate": float("inf")}, {"temperature": float("nan")}, {"hidden": 0}, {"frames": 1}],
    ],
)
def test_settings_refuse(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        train.Settings(**wrong)
