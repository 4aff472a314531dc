"""Snippets: a movie snippet among a tweet, a product and a news snippet, of which the movie's rating alone is asked.

Texts and ratings (means of twenty readers, -4 to 4) of Hutto and Gilbert, "VADER: a parsimonious rule-based model for
sentiment analysis of social media text" (ICWSM 2014). They are inside the source distribution of vaderSentiment 0.5.
"""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from pathlib import Path

from examples.learning_to_explain.reviews import SPLIT_SEED, Parts, Review, join, split, tokenise

_ARCHIVE = "hutto_ICWSM_2014.tar.gz"
_FILES = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "tweet": "tweets_GroundTruth.txt",
    "product": "amazonReviewSnippets_GroundTruth.txt",
    "news": "nytEditorialSnippets_GroundTruth.txt",
}
_SHORTEST = 6  # words of a text; shorter ones are left out


def snippets(path: Path, max_words: int) -> Parts:
    """All movie snippets of the file ``vaderSentiment-0.5.zip``, each among three other texts in random order.

    The others are drawn with replacement, and say nothing about the movie's rating; those of the test part are not seen
    in training. Every text is cut at a quarter of ``max_words``. Ratings are scaled to [0, 1].
    """
    rng = random.Random(SPLIT_SEED)
    kinds = {kind: split(texts, rng, test=0.15) for kind, texts in _read(path, max_words // 4).items()}
    made = []
    for number in range(3):
        others = [kinds[kind][number] for kind in _FILES if kind != "movie"]
        made.append([_mixed(movie, [rng.choice(texts) for texts in others], rng) for movie in kinds["movie"][number]])
    return Parts(*made)


def _mixed(movie: tuple[list[str], float], others: list[tuple[list[str], float]], rng: random.Random) -> Review:
    words, rating = movie
    if not -4 <= rating <= 4:
        raise ValueError(f"ratings must be in [-4, 4], got {rating}.")
    texts = [(words, True), *((other, False) for other, _ in others)]
    return join(rng.sample(texts, len(texts)), (rating + 4) / 8)


def _read(path: Path, most: int) -> dict[str, list[tuple[list[str], float]]]:
    """By kind, words and rating of all texts. A line of a file is a number, a rating and a text, between tabs."""
    found = {}
    with zipfile.ZipFile(path) as package:
        (inside,) = [name for name in package.namelist() if name.endswith(_ARCHIVE)]
        with tarfile.open(fileobj=io.BytesIO(package.read(inside))) as archive:
            members = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}
            for kind, name in _FILES.items():
                file = archive.extractfile(members[name])
                lines = file.read().decode("utf-8-sig").splitlines() if file else []
                rows = [line.split("\t") for line in lines if line.strip()]
                texts = [(tokenise(text), float(rating)) for _, rating, text in rows]
                found[kind] = [(words[:most], rating) for words, rating in texts if len(words) >= _SHORTEST]
    return found
