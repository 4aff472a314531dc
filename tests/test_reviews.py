"""Reviews of the learning-to-explain example: every source's reader on a file in its format, the generator, tensors."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch

from examples.learning_to_explain import data, relaxations, sources, synthetic


def test_synthetic_reviews_have_planted_phrases():
    """Contiguous, and told by words that are many and rare; all else is in every review."""
    parts = sources.synthetic(train=400, valid=5, test=5)
    levels = {a: [set(words.split()) for words in synthetic.LEVELS[a]] for a in synthetic.LEVELS}
    telling = set().union(*levels["food"])
    counts = Counter(w for review in parts.train for w in set(review.words))
    assert len(telling) == len(telling - set().union(*levels["service"])) == 40
    assert all(0 < counts[w] < 0.15 * len(parts.train) for w in telling)
    for review in parts.train:
        inside = [w for w, about in zip(review.words, review.rationale, strict=True) if about]
        assert 20 <= len(review.words) <= 40
        assert "".join("01"[r] for r in review.rationale).strip("0") == "11111"
        assert 2 <= len(telling & set(inside)) <= 4
        assert telling & set(review.words) == telling & set(inside) <= levels["food"][round(4 * review.rating)]
        assert not set().union(*levels["service"]) & set(inside)
    others = {w for review in parts.train for w, r in zip(review.words, review.rationale, strict=True) if not r}
    assert {w for r in parts.train for w, about in zip(r.words, r.rationale, strict=True) if about} - telling < others
    assert parts.train == sources.synthetic(train=400, valid=5, test=5).train
    assert max(len(review.words) for review in sources.synthetic(train=50, max_words=20).train) == 20


def _snippets(path: Path, kinds: dict[str, list[str]]) -> Path:
    """A file in the format of vaderSentiment's source distribution, from lines without numbers."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for name, lines in kinds.items():
            text = "".join(f"{i}_1\t{line}\r\n" for i, line in enumerate(lines)).encode("utf-8-sig")
            member = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    return path


def test_snippets_reader(tmp_path):
    kinds = {name: [f"0.5\t{name}{i} " + "x " * 8 for i in range(20)] for name in ("tweets", "amazonReviewSnippets")}
    kinds["nytEditorialSnippets"] = [f"-1\tnyt{i} " + "z " * 40 for i in range(20)]
    kinds["movieReviewSnippets"] = [f"{i / 10 - 4}\tfilm{i} " + "y " * 9 for i in range(80)] + ["1.0\ttoo short"]
    parts = sources.load("snippets", "movie", _snippets(tmp_path / "a.zip", kinds), 80)
    assert [len(parts.train), len(parts.valid), len(parts.test)] == [60, 8, 12]
    reviews = parts.train + parts.valid + parts.test
    assert len({tuple(r.words) for r in reviews}) == 80
    for review in reviews:
        about = [w for w, r in zip(review.words, review.rationale, strict=True) if r]
        assert about[1:] == ["y"] * 9
        assert review.rating == pytest.approx(int(about[0].removeprefix("film")) / 80)
        assert len(review.words) == 10 + 9 + 9 + 20  # news is cut
    assert len({tuple(w[:3] for w in r.words) for r in parts.train}) > 10  # orders
    others = [
        {w for r in part for w in r.words if w.startswith(("tweet", "nyt"))} for part in (parts.train, parts.test)
    ]
    assert not others[0] & others[1]
    for wrong in ("9\tfilm " + "y " * 9, "1\t2\t3"):
        broken = _snippets(tmp_path / "b.zip", kinds | {"movieReviewSnippets": [wrong] * 9})
        with pytest.raises(ValueError, match=r"b\.zip: not in the format of snippets"):
            sources.load("snippets", "movie", broken, 80)
    (tmp_path / "c.zip").write_text("no archive")
    with pytest.raises(ValueError, match="not in the format of snippets"):
        sources.load("snippets", "movie", tmp_path / "c.zip", 80)


def test_druglib_reader(tmp_path):
    columns = "urlDrugName rating effectiveness sideEffects condition benefitsReview sideEffectsReview commentsReview"
    header = "\t" + columns.replace(" ", "\t")
    texts = ['"' + " ".join([word] * 30) + '"' for word in ("good", "ache", "note")]
    rows = [f"{i}\tdrug{i % 9}\t5\tHighly Effective\tMild Side Effects\tpain\t" + "\t".join(texts) for i in range(11)]
    file = tmp_path / "druglib.tsv"
    file.write_text("\n".join([header, *rows]))
    parts = sources.load("druglib", "sideEffects", file, 60)
    reviews = parts.train + parts.valid + parts.test
    assert len(reviews) == 9  # two duplicates
    for review in reviews:
        assert review.rating == 0.75
        assert [w == "ache" for w in review.words] == review.rationale
        assert len(review.words) == 60


def test_beeradvocate_reader_shuffles_sections(tmp_path):
    stars = {"aroma": 4.0, "appearance": 2.0, "palate": 3.0, "taste": 3.5}
    plain = [{"text": "Nice. " * 20, **stars}] * 10
    words = ["hello"] * 4 + ["looks"] * 10 + ["smells"] * 10 + ["tastes"] * 10
    spans = {"appearance": [[4, 14]], "aroma": [[14, 24]], "taste": [[24, 34]]}
    (tmp_path / "reviews.jsonl").write_text("\n".join(json.dumps(r) for r in plain))
    marked = [json.dumps({"line": 3, "y": stars, "x": words, "spans": spans})] * 12
    (tmp_path / "sections.jsonl").write_text("\n".join(marked))
    parts = sources.load("beeradvocate", "aroma", tmp_path, 80)
    assert len(parts.train) + len(parts.valid) == 9
    assert all([w == "smells" for w in r.words] == r.rationale and r.words[:4] == words[:4] for r in parts.test)
    assert len({tuple(r.words) for r in parts.test}) > 2
    assert parts.test[0].rating == 0.8


def test_decorrelated_ratings_are_what_other_aspects_do_not_tell():
    stars = (2 + 3 * torch.rand(200, 4, dtype=torch.float64)).round(decimals=1)
    stars[:, 0] = 0.3 * stars[:, 1] + 0.5 * stars[:, 2] + 0.1 * stars[:, 0]
    reviews = [dict(zip(sources.ASPECTS["beeradvocate"], row.tolist(), strict=True)) for row in stars]
    rate = sources._residual(reviews, "aroma")
    rated = torch.tensor([rate(review) for review in reviews], dtype=torch.float64)
    correlation = torch.corrcoef(torch.cat([rated[None], stars.T]))[0]
    assert correlation[2:].abs().max() < 1e-9
    assert correlation[1] > 0.1
    assert float(rated.mean()) == pytest.approx(0.5)


def test_reader_of_the_published_format(tmp_path):
    line = "0.6 0.8 0.4 1.0 0.7\t" + " ".join(f"w{i}" for i in range(25))
    for part in ("train", "heldout"):
        with gzip.open(tmp_path / f"reviews.aspect1.{part}.txt.gz", "wt") as file:
            file.write("\n".join([line] * 4 + ["0 0 0 0 0\ttoo short"]))
    entry = {"x": [f"w{i}" for i in range(25)], "y": [0.6, 0.8, 0.4, 1.0, 0.7], "0": [], "1": [[2, 4], [7, 8]]}
    (tmp_path / "annotations.json").write_text(json.dumps(entry))
    with gzip.open(tmp_path / "vectors.txt.gz", "wt") as file:
        file.write("w3 1 2 3\nunseen 4 5 6\n")
    made = data.corpus("lei2016", "aroma", tmp_path, 22, vectors=tmp_path / "vectors.txt.gz")
    assert (len(made.train), len(made.valid), len(made.test)) == (4, 4, 1)
    assert made.n == 22
    assert made.train.ratings.tolist() == pytest.approx([0.8] * 4)
    assert torch.nonzero(made.test.rationale[0]).flatten().tolist() == [2, 3, 7]
    assert made.vectors[made.test.words[0, 3]].tolist() == [1.0, 2.0, 3.0]


def test_sources_refuse(tmp_path):
    with pytest.raises(ValueError, match="source must be one of"):
        sources.load("imdb", "plot", None, 40)
    with pytest.raises(ValueError, match="aspect of druglib"):
        sources.load("druglib", "taste", None, 40)
    with pytest.raises(ValueError, match="--path"):
        sources.load("druglib", "sideEffects", None, 40)
    with pytest.raises(ValueError, match="decorrelate is for beeradvocate"):
        sources.load("druglib", "sideEffects", tmp_path, 40, decorrelate=True)
    with pytest.raises(ValueError, match="decorrelate is for beeradvocate"):
        sources.load("synthetic", "food", None, 40, decorrelate=True)
    for source, path in (("beeradvocate", tmp_path / "none"), ("beeradvocate", tmp_path), ("druglib", tmp_path)):
        with pytest.raises(FileNotFoundError, match="README"):
            sources.load(source, sources.ASPECTS[source][0], path, 40)
    with pytest.raises(ValueError, match="relaxation must be one of"):
        relaxations.make("topk", 5, 2)


def test_vocabulary_and_padding():
    reviews = [sources.Review(["a", "b", "a"], 0.5, [False] * 3), sources.Review(["b", "c"], 1.0, [True, False])]
    vocabulary = data.build_vocabulary(reviews)
    assert vocabulary == {"a": 2, "b": 3}
    part = data.to_tensors(reviews, vocabulary, 4)
    assert part.words.tolist() == [[2, 3, 2, 0], [3, 1, 0, 0]]
    assert part.lengths.tolist() == [3, 2]
    assert data.precision(torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0]]), part) == 0.25
    assert data.random_floor(part) == 0.25


def test_batches_are_of_one_length():
    reviews = [sources.Review(["a"] * n, n / 100, [True] * n) for n in range(21, 101)]
    part = data.to_tensors(reviews, {"a": 2}, 100)
    torch.manual_seed(0)
    drawn = [part.draw(8) for _ in range(200)]
    assert all(int(part.lengths[rows].max() - part.lengths[rows].min()) < 10 for rows in drawn)
    counts = torch.cat(drawn).bincount(minlength=80)
    assert counts.min() > 5  # of 20
    assert counts.max() < 45
    widths = {part.width(rows) for rows in drawn}
    assert all(width % 8 == 0 or width == 100 for width in widths)
    assert part.width(torch.tensor([0, 2])) == 24
