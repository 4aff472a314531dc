"""The learning-to-explain example: its own structure and rivals by brute force, training, tables."""

from __future__ import annotations

import importlib
import itertools
from dataclasses import replace

import pytest
import torch

import sst_cvx as sst

pytest.importorskip("tqdm")

from examples import tables
from examples.learning_to_explain import (
    data,
    decoded,
    model,
    relaxations,
    report,
    table,
    timing,
    train,
)
from examples.learning_to_explain.two_segments import TwoSegments

SMALL = train.Settings(steps=40, validate_every=10, batch=16, dimension=16, hidden=16)


# -- relaxations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(1, 1), (4, 4), (5, 1), (7, 3), (8, 5), (8, 7)])
def test_two_segments_is_what_its_name_says(n, k):
    def segments(x):
        return sum(a > b for a, b in zip(x, (0, *x), strict=False))

    every = {x for x in itertools.product((0.0, 1.0), repeat=n) if sum(x) == k and segments(x) <= 2}
    listed = TwoSegments(n, k).vertices()
    assert {tuple(x) for x in listed.tolist()} == every
    assert len(listed) == len(every)


@pytest.mark.parametrize(("n", "k"), [(4, 4), (5, 1), (7, 3), (8, 5)])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_two_segments_by_enumeration(n, k, scale):
    structure = TwoSegments(n, k)
    vertices = structure.vertices()
    u = (scale * torch.randn(2, 3, n, dtype=torch.float64)).requires_grad_()
    totals = u @ vertices.T
    assert torch.allclose((structure.argmax(u) * u).sum(-1), totals.amax(-1))
    assert torch.allclose(structure.log_partition(u), totals.logsumexp(-1))
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy(), path="fast")(u)
    exact = totals.softmax(-1) @ vertices
    assert torch.allclose(soft, exact, atol=1e-10)
    direction = torch.randn_like(soft)
    gradients = [torch.autograd.grad((x * direction).sum(), u, retain_graph=True)[0] for x in (soft, exact)]
    assert torch.allclose(*gradients, atol=1e-9)


@pytest.mark.slow
def test_two_segments_is_certified():
    assert sst.check(TwoSegments(5, 2), verbose=False).ok


def test_two_segments_hull_and_ties():
    structure = TwoSegments(6, 3)
    u = torch.randn(20, 6, dtype=torch.float64)
    by_hull = sst.Structure.argmax(structure, u)  # HiGHS on the declared hull
    assert torch.allclose((by_hull * u).sum(-1), (structure.argmax(u) * u).sum(-1), atol=1e-9)
    tied = structure.argmax(torch.zeros(6))
    assert any(torch.equal(tied.double(), x) for x in structure.vertices())


@pytest.mark.parametrize("name", relaxations.NAMES)
def test_masks_leave_padding_alone(name):
    n, k, lengths = 12, 3, torch.tensor([3, 7, 12])
    chooser = relaxations.make(name, n, k)
    u = torch.randn(3, 2 * n - 1 if chooser.pairs else n, requires_grad=True)
    soft, hard = chooser.soft(u, lengths, 0.5), chooser.hard(u, lengths)
    padding = torch.arange(n) >= lengths[:, None]
    assert (soft[padding] == 0).all()
    assert (hard[padding] == 0).all()
    assert torch.equal(hard.sum(1), torch.full((3,), float(k)))
    assert hard.unique().tolist() == [0.0, 1.0]
    if name != "l2x":
        assert torch.allclose(soft.sum(1), torch.full((3,), float(k)), atol=1e-4)
    soft.square().sum().backward()
    assert u.grad is not None
    assert u.grad.isfinite().all()
    assert u.grad[2].abs().sum() > 0


@pytest.mark.parametrize("name", relaxations.NAMES)
def test_cold_soft_masks_are_hard_ones(name):
    chooser = relaxations.make(name, 10, 3)
    u = 3 * torch.randn(5, 19 if chooser.pairs else 10, dtype=torch.float64)
    lengths = torch.full((5,), 10)
    chooser.noise = lambda utilities: torch.distributions.Gumbel(utilities, 1e-9)
    soft, hard = chooser.soft(u, lengths, 1e-3), chooser.hard(u, lengths)
    if name == "l2x":  # k draws without noise are all the best word
        hard = torch.zeros_like(u).scatter(1, u.argmax(1, keepdim=True), 1.0)
    assert torch.allclose(soft, hard, atol=1e-3)


def test_softsub_is_sampling_without_replacement():
    torch.manual_seed(0)
    u = torch.tensor([1.0, 0.0, -1.0, 0.5], dtype=torch.float64).repeat(20_000, 1)
    soft = relaxations.make("softsub", 4, 2).soft(u, torch.full((len(u),), 4), 0.01)
    p = u[0].softmax(0)
    inclusion = [p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(4) if j != i) for i in range(4)]
    assert torch.allclose(soft.mean(0), torch.stack(inclusion), atol=0.015)


def test_floors_and_ceiling_look_where_they_should():
    lengths, u = torch.tensor([5, 8]), torch.arange(16.0).view(2, 8)
    masks = {name: relaxations.make(name, 8, 2).hard(u, lengths) for name in (*relaxations.FLOORS, relaxations.LABELS)}
    assert masks["window-first"].nonzero()[:, 1].tolist() == [0, 1, 0, 1]
    assert masks["window-last"].nonzero()[:, 1].tolist() == masks["labels"].nonzero()[:, 1].tolist() == [3, 4, 6, 7]
    assert masks["window-middle"].nonzero()[:, 1].tolist() == [2, 3, 3, 4]
    assert masks["random"].sum(1).tolist() == [2, 2]
    assert masks["random"][0, 5:].sum() == 0
    many = relaxations.make("random", 8, 2).hard(torch.zeros(4000, 8), torch.full((4000,), 8))
    assert torch.allclose(many.mean(0), torch.full((8,), 0.25), atol=0.04)


# -- training ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_planted_words_are_found_far_above_chance(tmp_path):
    run = train.Run(replace(train.PRESETS["synthetic"], steps=250), tmp_path)
    result = run.go(quiet=True)
    assert result["precision"] > 3 * result["random precision"]
    assert result["MSE"] < 0.25 * 100 * float(run.data.test.ratings.var())
    page = report.page(tmp_path, 3)
    assert page.count('class="review"') == 3
    assert page.count("chosen") >= 3 * run.settings.k


def test_a_stopped_run_goes_on_as_if_nothing_had_been(tmp_path):
    small = replace(SMALL, steps=16, validate_every=4)
    whole = train.Run(small, tmp_path / "whole").go(quiet=True)
    stopped = train.Run(small, tmp_path / "parts")
    steps = stopped.steps(quiet=True)
    for step in range(11):
        next(steps)
        if step == 5:
            stopped._save()  # and what follows is lost
    resumed = train.Run(small, tmp_path / "parts")
    assert resumed.done == 6
    assert resumed.go(quiet=True) == whole
    metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts")]
    assert metrics[0] == metrics[1]
    assert metrics[0].count("valid MSE") == 4
    with pytest.raises(ValueError, match=r"other settings \(k: 5 there, 4 here\).*--folder"):
        train.Run(replace(small, k=4), tmp_path / "parts")


def test_reports_leave_a_run_in_progress_alone(tmp_path):
    steps = train.Run(replace(SMALL, validate_every=2), tmp_path).steps(quiet=True)
    for _ in range(3):
        next(steps)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert "best.pt" in before
    assert report.page(tmp_path, 2).count('class="review"') == 2
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    with pytest.raises(FileNotFoundError, match="holds no run"):
        report.page(tmp_path / "none", 2)


def test_divergence_is_said(tmp_path):
    run = train.Run(SMALL, tmp_path)
    torch.nn.init.constant_(next(run.model.regressor.parameters()), torch.nan)
    with pytest.raises(FloatingPointError, match="learning-rate"):
        run.advance()


@pytest.mark.parametrize("name", [*relaxations.NAMES, relaxations.LABELS])
@pytest.mark.parametrize("network", ["simple", "complex"])
def test_every_relaxation_trains(name, network, tmp_path):
    run = train.Run(replace(SMALL, relaxation=name, network=network), tmp_path)
    before = [p.detach().clone() for p in run.model.utilities.parameters()]
    run.advance()
    assert all(not torch.equal(a, b) for a, b in zip(before[:2], run.model.utilities.parameters(), strict=False))


def test_all_words_are_let_through_at_first(tmp_path):
    run = train.Run(replace(SMALL, warm=1), tmp_path)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    for step, moved in enumerate(({"regressor"}, {"regressor", "utilities"})):
        run.done = step
        run.advance()
        now = run.model.state_dict()
        assert {name.split(".")[0] for name in now if not torch.equal(now[name], before[name])} == moved


def test_temperatures_fall_then_stay(tmp_path):
    run = train.Run(replace(SMALL, start_temperature=8.0, temperature=0.5), tmp_path)
    seen = []
    for step in (0, 10, 20, 30):
        run.done = step
        seen.append(run.temperature)
    assert seen == pytest.approx([8.0, 2.0, 0.5, 0.5])


def test_dropout_scales_what_it_keeps():
    layer = model.Dropout(0.3)
    dropped = layer(torch.ones(1000, 101))
    assert float((dropped == 0).double().mean()) == pytest.approx(77 / 256, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    assert dropped.unique().numel() == 2
    assert torch.equal(layer.eval()(dropped), dropped)


def test_utilities_are_decoded_with_segments(tmp_path):
    """By brute force; and training on lowers the validation error, or leaves it."""
    run = train.Run(replace(SMALL, relaxation="binary", k=3), tmp_path)
    part, net = run.data.test, run.model.eval()
    masks, windows = decoded.segments(net, part), decoded.window(net, part)
    u = net.utilities(net.embedding(part.words)).detach()
    for row in range(3):
        length = int(part.lengths[row])
        best = (TwoSegments(length, 3).vertices().float() @ u[row, :length]).max()
        assert float((masks[row] * u[row]).sum()) == pytest.approx(float(best), abs=1e-5)
        sums = u[row, :length].unfold(0, 3, 1).sum(1)
        assert windows[row].nonzero().flatten().tolist() == [int(sums.argmax()) + i for i in range(3)]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = decoded.metrics(net, (run.data.train, run.data.valid, part), 1e-2, 16)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert found["refitted MSE"] < found["decoded MSE"]
    assert found["decoded precision"] == pytest.approx(100 * data.precision(masks, part))


def test_table_has_rows_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "STEPS", 2)
    monkeypatch.chdir(tmp_path)
    tiny = ["--preset", "tiny", "--steps", "2", "--validate-every", "2", "--hidden", "8", "--dimension", "8"]
    trained = ["random", "l2x", "binary", "correlated", "labels"]
    table.main([*tiny, "--folder", "runs", "--seeds", "0", "--rows", *reversed(trained)])
    rows = (tmp_path / "runs" / "table.md").read_text().splitlines()
    names = [row.split("|")[1].strip() for row in rows if row.startswith("|")]
    assert names[2:7] == trained
    assert set(table._SHOWN) == set(table.ROWS)
    assert names.count("l2x") == names.count("binary") == 3
    assert names.count("labels") == names.count("correlated") == 2
    values = [{"valid MSE": 3.0, "MSE": 1.0, "precision": 50.0}, {"valid MSE": 1.0, "MSE": 2.0, "precision": 60.0}]
    mse, hits = table.selected(values)
    assert mse.startswith("2.00 ± 0.4")  # drawn 3 times in 4
    assert hits.startswith("60.0 ± 4")
    assert table.selected(values[:1]) == ("1.00", "50.0")
    assert tables.results(tmp_path / "runs", ["l2x-0", "l2x-1"]).keys() == {"l2x"}
    pytest.importorskip("matplotlib")
    plot = importlib.import_module("examples.learning_to_explain.plot")
    plot.draw([tmp_path / "runs"], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000
    with pytest.raises(ValueError, match="no finished run"):
        plot.draw([tmp_path], tmp_path / "b.png")
    row = timing.row(replace(train.PRESETS["tiny"], relaxation="correlated"), 1)
    assert row[0] == "correlated"


@pytest.mark.parametrize(
    "wrong",
    [
        *[{"k": 0}, {"k": 21}, {"max_words": 10}, {"steps": 0}, {"batch": 0}, {"temperature": 0.0}, {"seed": -1}],
        *[{"learning_rate": float("inf")}, {"dropout": float("nan")}, {"pair_start": float("inf")}, {"freeze": 2}],
        *[{"aspect": "plot"}, {"relaxation": "top"}, {"start_temperature": -1.0}, {"warm": -1}],
    ],
)
def test_settings_refuse(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(SMALL, **wrong)
