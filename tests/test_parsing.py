"""The parsing example: reading, splits, trees of padded batches against enumeration, scores, resumption, tables."""

from __future__ import annotations

import itertools
import json
import re

import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

from examples import runs
from examples.parsing import data, evaluate, plot, table, train, treebank, trees
from examples.parsing.treebank import DataError, Sentence

TREES = ["arborescence", "projective"]
WORD = "{}\tKedi\tkedi\t{}\tNN\tProper=False\t{}\tnsubj\t_\t_"


def conllu(*sentences: list[int]) -> str:
    """Sentences of these heads; the last word of each is punctuation."""
    blocks = []
    for heads in sentences:
        tags = ["NOUN"] * (len(heads) - 1) + ["PUNCT"]
        words = [WORD.format(i, tag, head) for i, (tag, head) in enumerate(zip(tags, heads, strict=True), start=1)]
        blocks.append("\n".join(["# sent_id = 1", "# text = Kedi", *words]))
    return "\n\n".join(blocks)  # the package's files end without an empty line


def all_heads(n: int):
    """Heads of all trees of n words with one arc out of the root."""
    return (heads for heads in itertools.product(range(n + 1), repeat=n) if treebank.is_tree(heads))


# -- sentences ----------------------------------------------------------------------------------------------------


def test_treebank_is_read_and_split_as_its_authors_do(tmp_path):
    (tmp_path / "web.conllu").write_text(conllu(*([2, 0, 2] for _ in range(20))), encoding="utf-8")
    (tmp_path / "wiki.conllu").write_text(conllu(*([3, 4, 0, 3] for _ in range(10))) + "\n\n", encoding="utf-8")
    bank = treebank.turkish(tmp_path)
    assert [len(part) for part in (bank.train, bank.valid, bank.test)] == [24, 3, 3]
    sentence = bank.test[-1]
    assert (sentence.heads, sentence.labels[0], sentence.tags[0]) == ((3, 4, 0, 3), "nsubj", "NN")
    assert sentence.punctuation == (False, False, False, True)
    assert [s.projective for s in bank.test] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (conllu([2, 0, 2], [2, 1, 1]), "before line 12 .*no tree with one root"),
        (conllu([0, 0, 1]), "no tree with one root"),
        (conllu([9, 0, 1]), "no tree with one root"),
        (conllu([2, 0, 2]).replace("\t_\t_", "\t_"), "10 columns"),
        (conllu([2, 0, 2]).replace("2\tKedi", "3\tKedi"), "numbered from 1"),
        (conllu([2, 0, 2]).replace("\t0\t", "\tzero\t"), "zero"),
        ("# text = nothing\n", "holds no sentence"),
    ],
)
def test_damaged_treebanks_are_told(tmp_path, text, said):
    for name in treebank.FILES:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"(?s)web.conllu.*{said}"):
        treebank.turkish(tmp_path)


def test_a_missing_treebank_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    def missing(name):
        raise treebank.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(treebank.importlib.metadata, "distribution", missing)
    for options in ([], ["--data", str(tmp_path)]):
        with pytest.raises(SystemExit) as stop:
            train.main(["--folder", str(tmp_path / "run"), *options])
        assert stop.value.code == 2
        assert "pip install --no-deps turkish-treebanks==1.0.0" in capsys.readouterr().err


def test_the_installed_treebank_is_found_beside_its_package(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for name in treebank.FILES:
        (tmp_path / "data" / name).write_text(conllu([2, 0, 2]), encoding="utf-8")
    (tmp_path / "turkish_treebanks-1.0.0.dist-info").mkdir()
    (tmp_path / "turkish_treebanks-1.0.0.dist-info" / "METADATA").write_text(
        "Name: turkish-treebanks\nVersion: 1.0.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(treebank.turkish().train) == 2


def test_projective_trees_are_those_of_the_structure():
    """The rule that sorts sentences, against the library's own enumeration."""
    n = 4
    elements = trees.structure("projective", n + 1).vertices()
    index = trees.structure("projective", n + 1).edge_index
    listed = {tuple(sorted((int(d), int(h)) for h, d in index[:, x > 0].T)) for x in elements}
    for heads in all_heads(n):
        sentence = Sentence(("a",) * n, ("a",) * n, heads, ("a",) * n, (False,) * n)
        assert sentence.projective == (tuple(enumerate(heads, start=1)) in listed)


def test_words_whose_arcs_cross():
    """They are there exactly in sentences that are not projective, and come in pairs at least."""
    bank = treebank.synthetic(100)
    known = data.vocabulary(bank.train)
    for batch in data.batches(bank.train, known, 60):
        found = trees.crossing(batch.heads, batch.lengths)
        assert torch.equal(found.any(1), ~batch.projective)
        assert bool((found.sum(1) != 1).all())
        assert not bool((found & ~batch.present).any())
    heads = torch.tensor([[0, 3, 4, 0, 0, 0]])  # arcs 3 -> 1 and 4 -> 2 cross, and 0 -> 3 crosses 4 -> 2
    assert trees.crossing(heads, torch.tensor([5])).tolist() == [[False, True, True, True, False, False]]


def test_random_sentences():
    bank = treebank.synthetic(100)
    assert [len(part) for part in (bank.train, bank.valid, bank.test)] == [80, 10, 10]
    sentences = bank.train + bank.valid + bank.test
    assert all(treebank.is_tree(s.heads) and len(s) == len(s.labels) for s in sentences)
    assert {s.projective for s in sentences} == {True, False}
    assert treebank.synthetic(100) == bank


def test_batches_hold_every_sentence_once():
    bank = treebank.synthetic(60)
    known = data.vocabulary(bank.train)
    for generator, rising in ((None, False), (torch.Generator().manual_seed(0), False), (torch.Generator(), True)):
        parts = data.batches(bank.train, known, 30, generator, rising)
        if rising:
            assert [len(b.sentences[0]) for b in parts] == sorted(len(b.sentences[0]) for b in parts)
        assert sorted(s.words for b in parts for s in b.sentences) == sorted(s.words for s in bank.train)
        for batch in parts:
            assert len(batch.sentences) * (int(batch.lengths.max()) - 1) <= 30 or len(batch.sentences) == 1
            assert batch.present.sum(1).tolist() == [len(s) for s in batch.sentences]
            for row, s in enumerate(batch.sentences):
                assert batch.heads[row, 1 : len(s) + 1].tolist() == list(s.heads)
    assert data.lower("Iİ") == "\u0131i"
    assert [len(data.fit_for(kind, bank.train, 5)) for kind in ("arborescence", "projective")] == [
        sum(len(s) <= 5 for s in bank.train),
        sum(len(s) <= 5 and s.projective for s in bank.train),
    ]


# -- trees --------------------------------------------------------------------------------------------------------


def padded(kind: str, generator: torch.Generator):
    """Random scores over three sentences of 1, 2 and 3 words, padded to 5 places; and all trees of each."""
    scores = torch.randn(3, 5, 5, generator=generator)
    every = [list(all_heads(n)) for n in (1, 2, 3)]
    if kind == "projective":
        every[2] = [h for h in every[2] if Sentence((), (), h, (), ()).projective]
    return scores, torch.tensor([2, 3, 4]), every


def value(scores: torch.Tensor, heads: tuple[int, ...]) -> torch.Tensor:
    return sum((scores[h, d] for d, h in enumerate(heads, start=1)), start=torch.zeros(()))


@pytest.mark.parametrize("kind", TREES)
def test_losses_and_decoders_of_padded_sentences_are_those_of_enumeration(kind):
    scores, lengths, every = padded(kind, torch.Generator().manual_seed(0))
    gold = [choices[-1] for choices in every]
    heads = torch.tensor([[0, *h, *[0] * (4 - len(h))] for h in gold])
    values = [torch.stack([value(s, h) for h in choices]) for s, choices in zip(scores, every, strict=True)]
    wanted = sum(v.logsumexp(0) - value(s, h) for v, s, h in zip(values, scores, gold, strict=True))
    found = trees.arc_loss(kind, "exponential", scores, heads, lengths)
    torch.testing.assert_close(6 * found, wanted)
    best = [choices[int(v.argmax())] for v, choices in zip(values, every, strict=True)]
    decoded = trees.decode(kind, scores, lengths)
    assert decoded.tolist() == [[0, *h, *[0] * (4 - len(h))] for h in best]
    assert trees.are_trees(decoded, lengths).all()


@pytest.mark.parametrize("kind", [*TREES, "heads"])
@pytest.mark.parametrize("regularizer", list(trees.REGULARIZERS))
def test_gradients_of_losses_are_marginals_less_gold_arcs(kind, regularizer):
    scores, lengths, every = padded(kind, torch.Generator().manual_seed(1))
    heads = torch.tensor([[0, *h[0], *[0] * (4 - len(h[0]))] for h in every])
    scores.requires_grad_()
    loss = 6 * trees.arc_loss(kind, regularizer, scores, heads, lengths)
    (gradient,) = torch.autograd.grad(loss, scores)
    x = trees.marginals(kind, regularizer, scores, lengths)
    assert loss.item() >= 0
    gold = torch.zeros(3, 5, 5)
    for row, choices in enumerate(every):
        for d, h in enumerate(choices[0], start=1):
            gold[row, h, d] = 1.0
    torch.testing.assert_close(gradient, (x - gold).float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.sum((1, 2)), (lengths - 1).double())


def test_greedy_heads_may_be_no_tree():
    scores = torch.zeros(1, 4, 4)
    scores[0, 1, 2] = scores[0, 2, 1] = scores[0, 0, 3] = 1.0
    lengths = torch.tensor([4])
    greedy = trees.decode("greedy", scores, lengths)
    assert greedy.tolist() == [[0, 2, 1, 0]]
    assert not trees.are_trees(greedy, lengths)
    for heads in itertools.product(range(4), repeat=3):
        found = trees.are_trees(torch.tensor([[0, *heads, 0]]), lengths)
        assert bool(found) == treebank.is_tree(heads)


@pytest.mark.parametrize("n", [3, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", TREES)
def test_ambiguity_sets_against_enumeration(kind, n):
    """A tree is in the set just where moving from x away from it stays in the hull: a linear program over all trees."""
    scipy = pytest.importorskip("scipy.optimize")
    generator = torch.Generator().manual_seed(2)
    every = [h for h in all_heads(n) if kind == "arborescence" or Sentence((), (), h, (), ()).projective]
    events = torch.stack([_event(h) for h in every]).flatten(1).double()
    scores, lengths = 0.5 * torch.randn(2, n + 1, n + 1, generator=generator), torch.full((2,), n + 1)
    x = trees.marginals(kind, "euclidean", scores, lengths)
    sizes = []
    for row in range(2):
        inside = []
        for place, heads in enumerate(every):  # the largest weight that a mixture which makes x can give to this tree
            cost = -torch.eye(len(every))[place]
            rows = torch.cat([events.T, torch.ones(1, len(every))]).numpy()
            found = scipy.linprog(cost.numpy(), A_eq=rows, b_eq=torch.cat([x[row].flatten(), torch.ones(1)]).numpy())
            short = trees.shortfall(scores[row : row + 1], x[row : row + 1], torch.tensor([[0, *heads]]), lengths[:1])
            inside.append((found.status == 0 and -found.fun > 1e-6, float(short) < 1e-6))
        assert all(a == b for a, b in inside)
        sizes.append(sum(a for a, _ in inside))
    assert max(sizes) > 1


def _event(heads: tuple[int, ...]) -> torch.Tensor:
    x = torch.zeros(len(heads) + 1, len(heads) + 1)
    for d, h in enumerate(heads, start=1):
        x[h, d] = 1.0
    return x


def test_crossing_gold_trees_are_no_targets_of_projective_ones():
    heads, lengths = torch.tensor([[0, 3, 4, 0, 3]]), torch.tensor([5])
    trees.arc_loss("arborescence", "euclidean", torch.zeros(1, 5, 5), heads, lengths)
    with pytest.raises(ValueError, match="y"):
        trees.arc_loss("projective", "euclidean", torch.zeros(1, 5, 5), heads, lengths)


# -- runs ---------------------------------------------------------------------------------------------------------


class Gold(torch.nn.Module):
    """A parser that knows the answer."""

    def forward(self, batch):
        n = batch.words.shape[1]
        return 9.0 * torch.nn.functional.one_hot(batch.heads, n).mT.float(), batch.labels

    def label_scores(self, states, heads):
        return torch.nn.functional.one_hot(states, 30).float()


def test_the_right_answer_scores_100():
    bank = treebank.synthetic(80)
    parts = data.batches(bank.train, data.vocabulary(bank.train), 50)
    found = evaluate.evaluate(Gold(), parts)
    projective = {k for k in found if k.startswith("projective") and "trees" not in k}
    assert {found[k] for k in found.keys() - projective} == {100.0}
    assert found["projective UAS projective"] == 100 > found["projective UAS non-projective"]
    covered = evaluate.coverage(Gold(), parts, "arborescence", "euclidean")
    assert covered == {"arcs a word": 1.0, "gold arcs": 100.0, "gold trees": 100.0, "single trees": 100.0}
    covered = evaluate.coverage(Gold(), parts, "projective", "euclidean")
    assert covered["gold trees"] == pytest.approx(100 * sum(s.projective for s in bank.train) / len(bank.train))


def start(folder, *options):
    return train.main(["--preset", "tiny", "--folder", str(folder), *options])


def test_training_improves_and_resumes(tmp_path, monkeypatch, capsys):
    options = ("--trees", "projective", "--regularizer", "euclidean", "--epochs", "2")
    whole = start(tmp_path / "whole", *options)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
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
    for name in whole.keys() - {"seconds", "seconds in loss"}:
        assert parts[name] == whole[name]
    with pytest.raises(runs.RunError, match="epochs: 2 there, 4 here"):
        start(tmp_path / "parts", *options[:-1], "4")


@pytest.mark.slow
def test_tables_and_picture(tmp_path, capsys):
    target = tmp_path / "RESULTS.md"
    target.write_text("before\n<!-- figures: written by table.py -->\nlast figures\n<!-- end of figures -->\nafter\n")
    options = ["--preset", "tiny", "--folder", str(tmp_path / "all"), "--epochs", "1", "--seeds", "0", "1"]
    options += ["--rows", "arborescence-euclidean", "heads-exponential"]
    table.main([*options, "--minutes", "0"])
    assert not (tmp_path / "all" / "heads-exponential-0").exists()
    table.main(options)
    table.main([*options, "--write", str(target)])
    text = target.read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- end of figures -->\nafter\n")
    assert "last figures" not in text
    written = re.findall(r"\| arborescence-euclidean \| ([\d.]+) ± ", text)
    results = [json.loads((tmp_path / f"all/arborescence-euclidean-{s}/result.json").read_text()) for s in (0, 1)]
    assert float(written[0]) == pytest.approx(sum(r["greedy UAS"] for r in results) / 2, abs=0.05)
    (tmp_path / "none.md").write_text("no place")
    with pytest.raises(SystemExit):
        table.main([*options, "--write", str(tmp_path / "none.md")])
    with pytest.raises(runs.RunError, match="--folder"):
        table.main([*options, "--epochs", "2"])
    picture = tmp_path / "picture.png"
    plot.main([*(str(tmp_path / "all" / f"{name}-0") for name in options[-2:]), "--output", str(picture)])
    assert picture.stat().st_size > 10_000
    with pytest.raises(SystemExit):
        plot.main([str(tmp_path / "all" / "heads-exponential-0"), "--output", str(picture), "--sentence", "25"])
    assert "--sentence must be below 25" in capsys.readouterr().err
