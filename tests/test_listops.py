"""The ListOps example: expressions against a second evaluator and what follows from the definition, edges of padded
batches, gradients, scores, resumption, tables."""

from __future__ import annotations

import json
import re
import statistics

import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

from examples import runs
from examples.listops import data, edges, evaluate, parents, plot, table, train
from examples.listops.model import Model

LATENT = [(kind, "gumbel") for kind in edges.LATENT]
LATENT += [("arborescence", "gaussian"), ("arborescence", "exponential"), ("tree", "exponential")]
KINDS = [*LATENT, ("none", "gumbel"), ("true", "gumbel")]


def made(brackets: bool):
    return data.make((600, 150, 150), max_length=35, depths=(1, 3), seed=1, brackets=brackets)


@pytest.fixture(scope="module")
def parts():
    return made(False)


@pytest.fixture(scope="module", params=[False, True], ids=["brackets-read", "brackets-are-vertices"])
def either(request):
    return made(request.param)


# -- expressions --------------------------------------------------------------------------------------------------


def by_python(expression: str) -> tuple[int, int, list[int]]:
    """Value, depth and numbers of arguments of what is written, by Python's own parser."""
    code = re.sub(r"\[(\w+) ", r"\1(", expression + " ").replace("] ", "), ").strip(", ")
    code = re.sub(r"(\d) ", r"\1, ", code)
    arguments: list[int] = []

    def operator(function):
        def apply(*pairs):
            arguments.append(len(pairs))
            values = [p[0] if isinstance(p, tuple) else p for p in pairs]
            return function(values), 1 + max((p[1] for p in pairs if isinstance(p, tuple)), default=0)

        return apply

    names = {"MIN": min, "MAX": max, "MED": lambda values: int(statistics.median(values))}
    value, depth = eval(code, {name: operator(function) for name, function in names.items()})
    return value, depth, arguments


def test_values_depths_and_arguments_by_another_evaluator(parts):
    for part in parts:
        for row in range(len(part)):
            value, depth, arguments = by_python(data.text(part.tokens[row]))
            assert value == int(part.answers[row])
            assert depth == int(part.depths[row])
            assert set(arguments) <= {2, 3, 4, 5}
    assert data.evaluate((data.MED, 1, 4, data.CLOSE)) == 2  # int(2.5)
    nested = (data.MAX, 2, 9, data.CLOSE)
    assert data.evaluate((data.MED, *nested, 3, 4, data.CLOSE)) == 4
    assert data.text(torch.tensor(nested)) == "[MAX 2 9 ]"


def test_trees_are_the_brackets(either):
    """The number of operators around a token, by counting brackets, is its distance from vertex 0."""
    part = either[0]
    opening, closing = (part.tokens >= data.MIN) & (part.tokens <= data.MED), part.tokens == data.CLOSE
    around = (opening.cumsum(1) - opening.int() - (closing.cumsum(1) - closing.int())).gather(1, part.vertices)
    distance, place = torch.zeros_like(part.parents), torch.arange(part.vertices.shape[1]).expand_as(part.parents)
    for _ in range(4):
        distance += (place != 0).int()
        place = part.parents.gather(1, place)
    assert not bool(place.any())
    assert torch.equal(distance[part.present], around[part.present])
    truth = part.true_edges
    assert truth.sum((1, 2)).tolist() == (part.counts - 1).tolist()
    assert bool(opening.gather(1, part.vertices)[truth.any(2)].all())  # only operators have children
    written = part.vertex_tokens
    kept = (part.tokens != data.PADDING) & (bool((written == data.CLOSE).any()) | ~closing)
    assert torch.equal(written[part.present], part.tokens[kept])


def test_parts_are_unique_and_of_equal_shares(parts):
    texts = [data.text(row) for part in parts for row in part.tokens]
    assert len(set(texts)) == len(texts) == 900
    for part in parts:
        assert part.depths.bincount().tolist()[1:] == [len(part) // 3] * 3
        assert int(part.lengths.max()) <= 35
        padding = torch.arange(part.tokens.shape[1]) >= part.lengths[:, None]
        assert torch.equal(part.tokens == data.PADDING, padding)
        assert torch.equal(part.vertex_tokens == data.PADDING, ~part.present)
    again = data.make((600, 150, 150), max_length=35, depths=(1, 3), seed=1)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(parts, again, strict=True))


def test_parts_are_alike():
    """Lists of two digits run out; they are as frequent in the training part as in the test part."""
    train, _, test = data.make((1500, 100, 500), max_length=35, depths=(1, 1), seed=2)
    shares = [float((part.lengths == 4).double().mean()) for part in (train, test)]
    assert abs(shares[0] - shares[1]) < 4 * (0.25 * 0.75 * (1 / 1500 + 1 / 500)) ** 0.5


def test_statistics_follow_from_the_definition():
    """Before any rejection: shares of depths 1 and 2, arguments, operators, digits, and mean length.

    With 2 to 5 arguments equally likely and each nested with probability p = 1/4: P(depth 1) = m(1 - p) with
    m(x) = E x^arguments; P(depth <= 2) = m(1 - p + p m(1 - p)); operators in mean 1 / (1 - 3.5 p), tokens 2 of each and
    3.5 (1 - p) digits.
    """
    generator, count = data.random.Random(0), 5_000
    drawn = [one for _ in range(count) if (one := data.draw(generator, 10**6, 10**6))]
    assert len(drawn) == count
    depths = torch.tensor([d for _, d in drawn])

    def m(x: float) -> float:
        return sum(x**k for k in range(2, 6)) / 4

    shallow = m(0.75)
    for share, wanted in (((depths == 1), shallow), ((depths <= 2), m(0.75 + 0.25 * shallow))):
        assert float(share.float().mean()) == pytest.approx(wanted, abs=4 * (wanted * (1 - wanted) / count) ** 0.5)
    lengths = torch.tensor([float(len(tokens)) for (tokens, _), _ in drawn])
    assert float(lengths.mean()) == pytest.approx(8 * (2 + 3.5 * 0.75), abs=4 * float(lengths.std()) / count**0.5)
    tokens = torch.tensor([t for (tokens, _), _ in drawn for t in tokens])
    counts = tokens.bincount(minlength=14).double()
    assert counts[data.MIN : data.CLOSE].sum() == counts[data.CLOSE]
    for group in (counts[:10], counts[data.MIN : data.CLOSE]):
        wanted = group.sum() / len(group)
        assert float(((group - wanted) ** 2 / wanted).sum()) < 40  # chi squared of up to 9 degrees of freedom
    firsts = [sum(p == 0 for p in parents[1:]) - 1 for (_, parents), _ in drawn]  # arguments of the root
    shares = torch.tensor(firsts).bincount(minlength=6)[2:].double() / count
    assert torch.allclose(shares, torch.full((4,), 0.25, dtype=torch.float64), atol=4 * (0.1875 / count) ** 0.5)


def test_too_many_expressions_are_refused():
    with pytest.raises(ValueError, match=r"300 of 301 of depth 1\. Ask for fewer"):
        data.make((301,), max_length=4, depths=(1, 1), seed=0)
    assert len(data.make((300,), max_length=4, depths=(1, 1), seed=0)[0]) == 300


def test_batches_hold_every_expression_once(either):
    part = either[0]
    for generator in (None, torch.Generator().manual_seed(0)):
        made = list(data.batches(part, 64, generator))
        assert sorted(data.text(t) for b in made for t in b.tokens) == sorted(data.text(t) for t in part.tokens)
        assert all(b.tokens.shape[1] == int(b.lengths.max()) for b in made)
        assert all(b.vertices.shape[1] == int(b.counts.max()) for b in made)
        padded = sum(b.tokens.numel() for b in made)
        assert padded < 1.2 * int(part.lengths.sum())
        for b in made:
            for row in range(0, len(b), 20):
                value, depth, _ = by_python(data.text(b.tokens[row]))
                assert (value, depth) == (int(b.answers[row]), int(b.depths[row]))


# -- edges --------------------------------------------------------------------------------------------------------


def some(parts, count: int = 40) -> data.Part:
    """Expressions of many lengths, padded to the longest."""
    part = parts[0].take(torch.arange(0, 600, 600 // count), 35, 35)
    return part.take(torch.arange(len(part)), int(part.lengths.max()), int(part.counts.max()))


@pytest.mark.parametrize(("kind", "utilities"), LATENT)
def test_samples_are_edges_of_the_unpadded_expression(parts, kind, utilities):
    part = some(parts)
    n = part.vertices.shape[1]
    scores = torch.randn(len(part), n, n, generator=torch.Generator().manual_seed(0))
    for hard in (False, True):
        x = edges.sample(kind, utilities, scores, part.counts, 0.7, hard, torch.Generator().manual_seed(1))
        pairs = part.present[:, :, None] & part.present[:, None]
        assert not bool(x[~pairs].any())
        assert not bool(x.diagonal(dim1=1, dim2=2).any())
        if hard:
            assert bool(((x == 0) | (x == 1)).all())
        if kind == "tree":
            assert torch.equal(x, x.mT)
            torch.testing.assert_close(x.sum((1, 2)), 2.0 * (part.counts - 1))
        elif kind == "arborescence":
            into = part.present.float().index_fill(1, torch.tensor([0]), 0.0)
            torch.testing.assert_close(x.sum(1), into)
        else:
            assert not bool(x[:, :, 0].any())


@pytest.mark.parametrize(("kind", "utilities"), LATENT)
def test_best_edges_do_not_depend_on_padding(parts, kind, utilities):
    part = some(parts, 10)
    n = part.vertices.shape[1]
    scores = torch.randn(len(part), n, n, generator=torch.Generator().manual_seed(2))
    found = edges.best(kind, utilities, scores, part.counts)
    for row, m in enumerate(part.counts.tolist()):
        alone = edges.best(kind, utilities, scores[row : row + 1, :m, :m], part.counts[row : row + 1])
        assert torch.equal(found[row, :m, :m], alone[0])


@pytest.mark.parametrize(("kind", "utilities"), KINDS)
def test_padding_changes_no_answer_and_no_score(either, kind, utilities):
    part = some(either, 10)
    torch.manual_seed(0)
    model = Model(kind, utilities, 16, 3)
    sizes = zip(part.lengths.tolist(), part.counts.tolist(), strict=True)
    alone = [part.take(torch.tensor([row]), n, m) for row, (n, m) in enumerate(sizes)]
    if kind == "none":
        found, single = model.read(part), torch.cat([model.read(one) for one in alone])
    else:
        x, xs = model.best(part), [model.best(one) for one in alone]
        found, single = model.answer(part, x), torch.cat([model.answer(o, y) for o, y in zip(alone, xs, strict=True)])
        for row, (one, y) in enumerate(zip(alone, xs, strict=True)):
            of_row = [s[row] for s in evaluate.scores_of_edges(x, part, kind == "tree")]
            assert of_row == [s[0] for s in evaluate.scores_of_edges(y, one, kind == "tree")]
    torch.testing.assert_close(found, single)


def test_scores_of_edges_leave_closing_brackets_out():
    #    0 [MAX  1: 2  2 [MIN  3: 4  4: 7  5 ]  6 ]
    tokens = torch.tensor([[data.MAX, 2, data.MIN, 4, 7, data.CLOSE, data.CLOSE, data.PADDING]])
    number, parents = torch.tensor([7]), torch.tensor([[0, 0, 0, 2, 2, 2, 0, 0]])
    part = data.Part(tokens, number, torch.arange(8)[None], number, parents, number, number)
    truth = part.true_edges.float()
    assert [float(s) for s in evaluate.scores_of_edges(truth, part)] == [1.0, 1.0]
    found = torch.zeros(1, 8, 8)
    for i, j in ((0, 1), (2, 0), (5, 3), (0, 4), (0, 5), (0, 6)):  # one right, one turned round, one by a bracket
        found[0, i, j] = 1.0
    precision, recall = evaluate.scores_of_edges(found, part)
    assert (float(precision), float(recall)) == (pytest.approx(1 / 3), pytest.approx(1 / 4))
    both = torch.maximum(found, found.mT)
    precision, recall = evaluate.scores_of_edges(both, part, undirected=True)
    assert (float(precision), float(recall)) == (pytest.approx(2 / 3), pytest.approx(2 / 4))
    assert float(evaluate.scores_of_edges(torch.zeros(1, 8, 8), part)[0]) == 0


def test_edges_without_a_model(either):
    """Under token 0, the right edges are its own arguments; every token but the first has one parent."""
    part = either[0]
    own = (part.parents == 0) & part.present & (part.vertex_tokens != data.CLOSE)
    all_ = part.present & (part.vertex_tokens != data.CLOSE)
    wanted = 100 * float(((own.sum(1) - 1) / (all_.sum(1) - 1)).mean())
    found = evaluate.floors(part)
    assert found["all under token 0"] == (pytest.approx(wanted, rel=1e-4), pytest.approx(wanted, rel=1e-4))
    assert max(found["noise alone"]) < wanted


def test_every_pair_is_of_one_kind(parts):
    part = some(parts)
    kinds = parents.kinds(part)
    assert bool((kinds.sum(0) == 1).all())
    assert torch.equal(kinds[0], part.true_edges)
    #    0 [MAX  1: 2  2 [MIN  3: 4  4: 7  ]  5: 3 ]
    tokens = torch.tensor([[data.MAX, 2, data.MIN, 4, 7, data.CLOSE, 3, data.CLOSE]])
    number = torch.tensor([8])
    vertices, tree = torch.tensor([[0, 1, 2, 3, 4, 6]]), torch.tensor([[0, 0, 0, 2, 2, 0]])
    kinds = parents.kinds(data.Part(tokens, number, vertices, torch.tensor([6]), tree, torch.tensor([2]), number))
    for kind, parent, child in ((0, 2, 3), (1, 0, 4), (2, 3, 4), (2, 2, 5), (4, 1, 3)):
        assert kinds[:, 0, parent, child].nonzero().tolist() == [[kind]]


# -- the model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "utilities"), KINDS)
def test_every_row_learns_and_its_scores_have_gradients(parts, kind, utilities):
    torch.manual_seed(0)
    model, losses = Model(kind, utilities, 16, 3), []
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    batch = next(data.batches(parts[0].of_depth(2), 50))
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(model(batch, 1.2), batch.answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        if not name.endswith("hh_l0"):  # of a state that is 0 at first
            assert bool(p.grad.any()), name
        if kind in edges.LATENT and name.startswith("scores.") and name.endswith("weight_hh_l0"):
            assert bool(p.grad.any()), name


def test_more_rounds_than_the_tree_is_deep_change_nothing(parts):
    torch.manual_seed(0)
    part = parts[0].of_depth(2).take(torch.arange(20), 35, 35)
    model = Model("true", "gumbel", 16, 3)
    states = []
    for rounds in (2, 3, 4):
        model.graph.rounds = rounds
        states.append(model.graph(part.vertex_tokens, part.true_edges.float()))
    assert not torch.allclose(states[0], states[1])
    torch.testing.assert_close(states[1], states[2])


# -- runs ---------------------------------------------------------------------------------------------------------


def start(folder, *options):
    return train.main(["--preset", "tiny", "--folder", str(folder), "--quiet", *options])


def test_a_killed_run_goes_on_as_the_same(tmp_path, monkeypatch, capsys):
    options = ("--edges", "arborescence", "--epochs", "2", "--expressions", "200")
    whole = start(tmp_path / "whole", *options)
    step = train.Run.train_step

    def killed(self, batch):
        if self.done == 1:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(train.Run, "train_step", killed)
        with pytest.raises(KeyboardInterrupt, match="holds epoch 1 of 2: the same command goes on"):
            start(tmp_path / "parts", *options)
    parts = start(tmp_path / "parts", *options)
    assert {k: v for k, v in parts.items() if k != "seconds"} == {k: v for k, v in whole.items() if k != "seconds"}
    lines = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1]["loss"] < lines[0]["loss"]
    with pytest.raises(runs.RunError, match="edges: 'arborescence' there, 'tree' here"):
        start(tmp_path / "parts", "--edges", "tree", *options[2:])


def test_what_does_not_go_together_is_refused(tmp_path, capsys):
    for options, said in (
        (("--edges", "independent", "--utilities", "exponential"), "utilities must not be exponential"),
        (("--max-depth", "3", "--max-length", "7"), "found 0 of 199 of depth 3"),
        (("--edges", "ring"), "edges"),
    ):
        with pytest.raises(SystemExit) as stop:
            start(tmp_path / "run", *options)
        assert stop.value.code == 2
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match="max_depth must be from 1 to 50"):
        train.Settings(max_depth=0)


@pytest.mark.slow
def test_tables_and_picture(tmp_path, capsys):
    target = tmp_path / "RESULTS.md"
    target.write_text("<!-- figures: written by table.py -->\n<!-- end of figures -->\n")
    options = ["--preset", "tiny", "--folder", str(tmp_path / "all"), "--epochs", "1", "--seeds", "0", "1"]
    table.main([*options, "--write", str(target)])
    text = target.read_text()
    for row in table.ROWS:
        assert text.count(f"| {table.NAMES[row]} |") >= 2
        assert f"{row} 2" in text
    picture = tmp_path / "picture.png"
    folders = [str(tmp_path / "all" / f"{name}-0") for name in ("arborescence-gumbel", "tree", "independent")]
    plot.main([*folders, "--output", str(picture)])
    capsys.readouterr()
    parents.main(folders[:1])
    assert len(re.findall(r"\| arborescence-gumbel-0 \| [12] \|", capsys.readouterr().out)) == 2
    assert picture.stat().st_size > 20_000
    true = str(tmp_path / "all" / "true-0")
    for wrong, said in (([folders[0], "--expression", "100"], "below 100"), (["no"], "no run"), ([true], "no latent")):
        with pytest.raises(SystemExit):
            plot.main([*wrong, "--output", str(picture)])
        assert said in capsys.readouterr().err
