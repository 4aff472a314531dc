"""Made-up reviews of restaurants, in English: a phrase about the food, one about the service, and talk about neither.

A phrase is contiguous and has five words: two to four that stand for one of five levels, and words that are everywhere.
Level words are many (eight a level and aspect) and each is rare; both phrases stand at random places, in clauses that
the rest of the review is made of, too.
"""

from __future__ import annotations

import random

from examples.learning_to_explain.reviews import MIN_WORDS, Parts, Review

PHRASE = 5
LEVELS = {
    "food": (
        "inedible rancid rotten putrid spoiled nauseating vile foul",
        "bland greasy soggy stale overcooked rubbery tasteless watery",
        "edible plain ordinary filling passable simple standard unremarkable",
        "tasty fresh crisp juicy savoury flavourful tender appetising",
        "delicious exquisite heavenly divine sublime mouthwatering scrumptious unforgettable",
    ),
    "service": (
        "abusive insulting hostile vulgar threatening contemptuous dishonest cruel",
        "slow rude careless inattentive grumpy forgetful impatient clumsy",
        "adequate acceptable correct formal neutral reserved distant businesslike",
        "friendly polite helpful prompt attentive courteous welcoming cheerful",
        "impeccable outstanding gracious brilliant superb caring delightful wonderful",
    ),
}
_CLAUSES = {  # by the number of level words
    2: ("it was # and #", "so # , so #", "all was # , #", "everything # , always #"),
    3: ("# , # and #", "# and # and #"),
    4: ("# # , # #", "# # # and #"),
}
_TALK = (
    *[clause for clauses in _CLAUSES.values() for clause in clauses],
    *["we came on a DAY with WHO", "our table stood WHERE", "WHO had booked for HOUR", "we stayed until HOUR"],
    *["WHO paid in cash", "a THING hung over the THING", "there was parking WHERE", "it opens at HOUR on DAY"],
    *["WHO sat WHERE", "the THING was next to the THING"],
)
_LAST = ["well", "for", "today", "that", "was", "all"]
_LISTS = {
    "#": "dark,noisy,small,crowded,bright,old,modern,busy,narrow,round,wooden,painted,wide,warm,open,rustic",
    "DAY": "monday,tuesday,wednesday,thursday,friday,saturday,sunday,holiday",
    "WHO": "my sister,my brother,a colleague,two friends,the neighbours,my parents,our guests",
    "WHERE": "near the window,by the door,behind the bar,in the garden,across the street,upstairs",
    "HOUR": "six,seven,eight,nine,ten,noon,midnight",
    "THING": "lamp,mirror,clock,picture,fireplace,piano,curtain,counter,staircase,plant",
}


def synthetic(train: int = 1500, valid: int = 200, test: int = 300, max_words: int = 40, seed: int = 0) -> Parts:
    """Reviews whose rating is the level of the food; the phrase about it is the rationale."""
    rng = random.Random(seed)
    made = [_review(rng, rng.randint(min(MIN_WORDS + 1, max_words), max_words)) for _ in range(train + valid + test)]
    return Parts(made[:train], made[train : train + valid], made[train + valid :])


def _review(rng: random.Random, total: int) -> Review:
    level = rng.randrange(5)
    phrases = [(_phrase(rng, "food", level), True), (_phrase(rng, "service", rng.randrange(5)), False)]
    sentences: list[tuple[list[str], bool]] = [(words, False) for words in _talk(rng, total - 2 * (PHRASE + 1))]
    for phrase in rng.sample(phrases, 2):
        sentences.insert(rng.randint(0, len(sentences)), phrase)
    ended = [([*sentence, "."], [about] * len(sentence) + [False]) for sentence, about in sentences]
    return Review([w for words, _ in ended for w in words], level / 4, [about for _, marks in ended for about in marks])


def _phrase(rng: random.Random, aspect: str, level: int) -> list[str]:
    clause = rng.choice(_CLAUSES[rng.randint(2, 4)])
    return _filled(rng, clause, {"#": LEVELS[aspect][level].split()})


def _talk(rng: random.Random, count: int) -> list[list[str]]:
    """Sentences of ``count`` words together, full stops included, or of one less."""
    lists = {slot: words.split(",") for slot, words in _LISTS.items()}
    sentences = []
    while count > 1:
        words = _filled(rng, rng.choice(_TALK), lists)
        sentences.append(words if len(words) < count else _LAST[1 - count :])
        count -= len(sentences[-1]) + 1
    return sentences


def _filled(rng: random.Random, clause: str, lists: dict[str, list[str]]) -> list[str]:
    """A clause with other words in every slot."""
    left = {slot: rng.sample(words, len(words)) for slot, words in lists.items()}
    return [word for slot in clause.split() for word in (left[slot].pop() if slot in left else slot).split()]
