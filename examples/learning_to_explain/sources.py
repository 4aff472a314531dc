"""Where reviews come from: made up, Druglib, snippets, the BeerAdvocate excerpt, or the files of Lei et al. (2016).

Each source gives ``Parts``: lists of reviews to train on, to validate on and to test on. A review of the test part
knows its rationale, the words that are about the aspect. ``max_words`` bounds every review.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from examples.learning_to_explain.reviews import MIN_WORDS, SPLIT_SEED, Parts, Review, join, split, tokenise
from examples.learning_to_explain.snippets import snippets
from examples.learning_to_explain.synthetic import synthetic

ASPECTS = {
    "synthetic": ("food",),
    "druglib": ("sideEffects", "effectiveness"),
    "snippets": ("movie",),
    "beeradvocate": ("aroma", "appearance", "taste", "palate"),
    "lei2016": ("appearance", "aroma", "palate", "taste"),  # their aspect0, 1, 2, 3
}
_LEVELS = {
    "effectiveness": ("Ineffective", "Marginally Effective", "Moderately Effective", "Considerably Effective",
                      "Highly Effective"),
    "sideEffects": ("Extremely Severe Side Effects", "Severe Side Effects", "Moderate Side Effects",
                    "Mild Side Effects", "No Side Effects"),
}  # fmt: skip
_TEXTS = {"effectiveness": "benefitsReview", "sideEffects": "sideEffectsReview", "comments": "commentsReview"}


def load(source: str, aspect: str, path: Path | None, max_words: int, decorrelate: bool = False) -> Parts:
    """The parts of a source; ``path`` is its file or folder (synthetic reviews need none).

    With ``decorrelate`` (of the BeerAdvocate excerpt) the target is what other aspects' ratings do not tell.

    Raises:
        ValueError: an unknown source or aspect, no path where one is needed, files in another format.
        FileNotFoundError: nothing there.
    """
    if source not in ASPECTS:
        raise ValueError(f"source must be one of {', '.join(ASPECTS)}, got {source!r}.")
    if aspect not in ASPECTS[source]:
        raise ValueError(f"aspect of {source} must be one of {', '.join(ASPECTS[source])}, got {aspect!r}.")
    if decorrelate and source != "beeradvocate":
        raise ValueError(f"decorrelate is for beeradvocate alone, got {source}.")
    if source == "synthetic":
        return synthetic(max_words=max_words)
    if path is None:
        raise ValueError(f"{source} is not part of this repository: give its place by --path (see README.md).")
    needed = {
        "druglib": [path],
        "snippets": [path],
        "beeradvocate": [path / "reviews.jsonl", path / "sections.jsonl"],
        "lei2016": [path / "annotations.json"],
    }[source]
    if missing := [str(file) for file in needed if not file.is_file()]:
        raise FileNotFoundError(f"no file {', '.join(missing)}: see README.md for where to get {source}.")
    files = ", ".join(map(str, needed))
    try:
        if source == "beeradvocate":
            parts = beeradvocate(path, aspect, max_words, decorrelate)
        elif source == "snippets":
            parts = snippets(path, max_words)
        else:
            parts = {"druglib": druglib, "lei2016": lei2016}[source](path, aspect, max_words)
    except (LookupError, TypeError, ValueError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{files}: not in the format of {source} ({reason}); see README.md.") from error
    for name in ("train", "valid", "test"):
        if not getattr(parts, name):
            raise ValueError(f"{files}: no reviews of {MIN_WORDS} words are left for the part {name!r}.")
    return parts


def druglib(path: Path, aspect: str, max_words: int) -> Parts:
    """Druglib: a reviewer's three texts, joined in random order; the rationale is the aspect's own text.

    Each text is cut at a third of ``max_words``. 50 duplicates are dropped. Ratings run from worst (0) to best (1).
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    rng = random.Random(SPLIT_SEED)
    seen, reviews = set(), []
    for row in rows:
        key = (row["urlDrugName"], *(row[column] for column in _TEXTS.values()))
        if key in seen:
            continue
        seen.add(key)
        parts = [(tokenise(row[column])[: max_words // 3], name == aspect) for name, column in _TEXTS.items()]
        rng.shuffle(parts)
        reviews.append(join(parts, _LEVELS[aspect].index(row[aspect]) / 4))
    return Parts(*split([r for r in reviews if len(r.words) >= MIN_WORDS], rng, test=0.2))


def beeradvocate(path: Path, aspect: str, max_words: int, decorrelate: bool = False) -> Parts:
    """The excerpt in ``path``: train on reviews without section headers, test on those with, their sections shuffled.

    Sections stand nearly always in one order, which would give them away. Each part of a test review
    (what comes before the sections, and the sections) is cut to an equal share of ``max_words``. With ``decorrelate``
    ratings are 1/2 plus their residual after linear regression on the other three aspects, fitted to plain reviews:
    aspects' ratings correlate at 0.6 to 0.8, so words about one tell another.
    """
    reviews = [json.loads(line) for line in (path / "reviews.jsonl").open(encoding="utf-8")]
    marked = [json.loads(line) for line in (path / "sections.jsonl").open(encoding="utf-8")]
    rng = random.Random(SPLIT_SEED)
    with_headers = {entry["line"] for entry in marked}
    plain = [review for number, review in enumerate(reviews) if number not in with_headers]
    rate = _residual(plain, aspect) if decorrelate else lambda stars: _of_five(stars[aspect])
    joined = [join([(tokenise(review["text"])[:max_words], False)], rate(review)) for review in plain]
    train, valid, _ = split([r for r in joined if len(r.words) >= MIN_WORDS], rng, test=0.0)
    test = [_shuffled_sections(entry, aspect, rate(entry["y"]), max_words, rng) for entry in marked]
    return Parts(train, valid, [r for r in test if len(r.words) >= MIN_WORDS])


def lei2016(folder: Path, aspect: str, max_words: int) -> Parts:
    """The published files of Lei et al. (2016): ``reviews.aspectN.train.txt.gz``, ``heldout``, ``annotations.json``.

    A line is five ratings in [0, 1], a tab, and words; an annotation is JSON with words "x", ratings "y" and, by the
    aspect's number, token ranges. Held-out reviews validate, annotated ones test.
    """
    number = ASPECTS["lei2016"].index(aspect)
    train, valid = (
        _lines(folder / f"reviews.aspect{number}.{part}.txt.gz", number, max_words) for part in ("train", "heldout")
    )
    test = []
    for line in (folder / "annotations.json").open(encoding="utf-8"):
        entry = json.loads(line)
        inside = _inside(entry[str(number)], len(entry["x"]))
        test.append(Review(entry["x"][:max_words], _unit(entry["y"][number]), inside[:max_words]))
    return Parts(train, valid, [r for r in test if len(r.words) >= MIN_WORDS])


def read_vectors(path: Path, vocabulary: dict[str, int]) -> dict[int, list[float]]:
    """Word vectors in text, a word and its numbers a line (gzipped or not), of the words in the vocabulary."""
    found: dict[int, list[float]] = {}
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for line in file:
            word, *numbers = line.split() or [""]
            if word in vocabulary:
                found[vocabulary[word]] = [float(x) for x in numbers]
    if len(sizes := {len(values) for values in found.values()}) > 1:
        raise ValueError(f"{path} has vectors of different sizes, {sorted(sizes)}.")
    if not found:
        raise ValueError(f"{path} has no vector of any word in the vocabulary.")
    return found


def _lines(path: Path, number: int, max_words: int) -> list[Review]:
    reviews = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            ratings, text = line.rstrip("\n").split("\t")
            words = text.split()[:max_words]
            reviews.append(Review(words, _unit(float(ratings.split()[number])), [False] * len(words)))
    return [r for r in reviews if len(r.words) >= MIN_WORDS]


def _shuffled_sections(entry: dict, aspect: str, rating: float, max_words: int, rng: random.Random) -> Review:
    ranges = [(start, end, name) for name, spans in entry["spans"].items() for start, end in spans]
    part_words = max_words // (len(ranges) + 1)
    first = min(start for start, _, _ in ranges)
    sections = [(entry["x"][start:end][:part_words], name == aspect) for start, end, name in ranges]
    rng.shuffle(sections)
    return join([(entry["x"][:first][:part_words], False), *sections], rating)


def _inside(spans: list[list[int]], n: int) -> list[bool]:
    return [any(start <= i < end for start, end in spans) for i in range(n)]


def _residual(reviews: list[dict], aspect: str) -> Callable[[dict], float]:
    """From the stars of all aspects to 1/2 plus what those of the others do not tell, by least squares."""
    others = [a for a in ASPECTS["beeradvocate"] if a != aspect]
    design = np.array([[1.0, *(review[a] / 5 for a in others)] for review in reviews])
    weights = np.linalg.lstsq(design, np.array([review[aspect] / 5 for review in reviews]))[0]

    def rate(stars: dict) -> float:
        told = weights @ [1.0, *(stars[a] / 5 for a in others)]
        return float(np.clip(0.5 + stars[aspect] / 5 - told, 0, 1))

    return rate


def _of_five(stars: float) -> float:
    """1 to 5 stars, as Lei et al. scale them."""
    return _unit(stars / 5)


def _unit(rating: float) -> float:
    if not 0 <= rating <= 1:
        raise ValueError(f"ratings must be in [0, 1], got {rating}.")
    return rating
