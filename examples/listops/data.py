"""ListOps (Nangia and Bowman 2018) without sums: nested lists of digits, their values and their trees.

An expression is an operator (MIN, MAX or MED, the opening bracket in the same token), 2 to 5 arguments, and a closing
bracket. Every argument is an expression with probability 0.25, else a digit. The depth is the largest number of
operators around a digit. As Paulus et al. do (arXiv 2006.08063, appendix), expressions that are too long are rejected,
and every depth has the same share. All are different, so that the parts are disjoint: lists of two digits,
of which there are 300, soon run out, in all parts alike.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch

MIN, MAX, MED, CLOSE, PADDING = 10, 11, 12, 13, 14  # tokens; 0 to 9 are digits
TOKENS = 15
ANSWERS = 10
WORDS = (*"0123456789", "[MIN", "[MAX", "[MED", "]", "")
NESTED = 0.25  # probability that an argument is an expression
ARGUMENTS = (2, 5)
_PATIENCE = 20_000  # expressions in a row without a new one of a depth that is wanted

Expression = tuple[tuple[int, ...], tuple[int, ...]]  # tokens; their parents' places, that of the first is 0


@dataclass(frozen=True)
class Part:
    """N expressions of up to n tokens, and graphs over up to m of these, the vertices; vertex 0 is token 0, the root.

    Attributes:
        tokens: ``(N, n)``. lengths: ``(N,)`` of them.
        vertices: ``(N, m)``, the places of their tokens, in this order. counts: ``(N,)`` of them.
        parents: ``(N, m)``, vertices; of a closing bracket (if it is one), its operator. 0 for padding.
        depths, answers: ``(N,)``.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    vertices: torch.Tensor
    counts: torch.Tensor
    parents: torch.Tensor
    depths: torch.Tensor
    answers: torch.Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: torch.Tensor, n: int, m: int) -> Part:
        """Some of the expressions, cut to n tokens and m vertices."""
        wide = self.tokens[rows, :n], self.lengths[rows], self.vertices[rows, :m], self.counts[rows]
        return Part(*wide, self.parents[rows, :m], self.depths[rows], self.answers[rows])

    def of_depth(self, depth: int) -> Part:
        return self.take((self.depths == depth).nonzero()[:, 0], self.tokens.shape[1], self.vertices.shape[1])

    def to(self, device: torch.device | str) -> Part:
        return Part(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    @property
    def present(self) -> torch.Tensor:
        """``(N, m)`` bool, vertices: no padding."""
        return torch.arange(self.vertices.shape[1], device=self.tokens.device) < self.counts[:, None]

    @property
    def vertex_tokens(self) -> torch.Tensor:
        """``(N, m)``, tokens of the vertices."""
        return self.tokens.gather(1, self.vertices).masked_fill(~self.present, PADDING)

    @property
    def true_edges(self) -> torch.Tensor:
        """``(N, m, m)`` bool, parent by child: those to closing brackets included."""
        edges = torch.nn.functional.one_hot(self.parents, self.vertices.shape[1]).bool().mT & self.present[:, None]
        edges[:, :, 0] = False
        return edges


# -- expressions --------------------------------------------------------------------------------------------------


def draw(generator: random.Random, max_length: int, max_depth: int) -> tuple[Expression, int] | None:
    """One expression and its depth; None where it is longer or deeper."""
    tokens, parents, depth = [generator.choice((MIN, MAX, MED))], [0], 1
    around, missing = [0], [generator.randint(*ARGUMENTS)]  # operators that are open, arguments they still wait for
    while around:
        parents.append(around[-1])
        if not missing[-1]:
            tokens.append(CLOSE)
            around.pop()
            missing.pop()
            continue
        missing[-1] -= 1
        if generator.random() < NESTED:
            around.append(len(tokens))
            tokens.append(generator.choice((MIN, MAX, MED)))
            missing.append(generator.randint(*ARGUMENTS))
            depth = max(depth, len(around))
            if depth > max_depth:
                return None
        else:
            tokens.append(generator.randrange(10))
        if len(tokens) + sum(missing) + len(around) > max_length:
            return None
    return (tuple(tokens), tuple(parents)), depth


def evaluate(tokens: tuple[int, ...]) -> int:
    """The value; of MED the median, rounded down as in the public code."""
    lists: list[list[int]] = [[]]
    for token in tokens:
        if token == CLOSE:
            operator, *values = lists.pop()
            lists[-1].append(_value(operator, values))
        elif token >= MIN:
            lists.append([token])
        else:
            lists[-1].append(token)
    return lists[0][0]


def _value(operator: int, values: list[int]) -> int:
    values = sorted(values)
    if operator == MED:
        return (values[(len(values) - 1) // 2] + values[len(values) // 2]) // 2
    return values[0 if operator == MIN else -1]


def text(tokens: torch.Tensor) -> str:
    """An expression as it is written: ``[MAX 2 9 [MIN 4 7 ] 0 ]``."""
    return " ".join(WORDS[t] for t in tokens.tolist() if t != PADDING)


# -- parts --------------------------------------------------------------------------------------------------------


def make(
    counts: tuple[int, ...], max_length: int, depths: tuple[int, int], seed: int, brackets: bool = False
) -> list[Part]:
    """Parts of so many expressions, all different, with equal shares of the depths from ``depths[0]`` to ``depths[1]``
    (up to one expression); within a depth, expressions go to the parts at random.

    Args:
        brackets: whether closing brackets are vertices, too.

    Raises:
        ValueError: there are not so many expressions, or they are too rare to be found.
    """
    shares = range(depths[0], depths[1] + 1)
    wanted = [{d: _share(count, d - depths[0], len(shares)) for d in shares} for count in counts]
    generator = random.Random(seed)
    by_depth = _unique({d: sum(w[d] for w in wanted) for d in shares}, max_length, generator)
    for expressions in by_depth.values():  # the short ones are drawn first, until they run out
        generator.shuffle(expressions)
    parts = []
    for number in wanted:
        chosen = [(e, d) for d in shares for e in (by_depth[d].pop() for _ in range(number[d]))]
        parts.append(_part(chosen, max_length, brackets))
    return parts


def _share(count: int, number: int, parts: int) -> int:
    return count // parts + (number < count % parts)


def _unique(wanted: dict[int, int], max_length: int, generator: random.Random) -> dict[int, list[Expression]]:
    """So many different expressions by depth, in the order in which they were drawn."""
    found: dict[int, dict[Expression, None]] = {depth: {} for depth in wanted}
    missing, vain, deepest = sum(wanted.values()), 0, max(wanted)
    while missing:
        drawn = draw(generator, max_length, deepest)
        vain += 1
        if drawn is not None:
            expression, depth = drawn
            if depth in wanted and len(found[depth]) < wanted[depth] and expression not in found[depth]:
                found[depth][expression] = None
                missing, vain = missing - 1, 0
        if vain > _PATIENCE:
            short = [f"{len(found[d])} of {n} of depth {d}" for d, n in wanted.items() if len(found[d]) < n]
            raise ValueError(
                f"too few different expressions of up to {max_length} tokens: found {', '.join(short)}. Ask for fewer "
                "expressions, less depth or more length."
            )
    return {depth: list(expressions) for depth, expressions in found.items()}


def _part(chosen: list[tuple[Expression, int]], n: int, brackets: bool) -> Part:
    tokens = torch.tensor([[*t, *[PADDING] * (n - len(t))] for (t, _), _ in chosen])
    parents = torch.tensor([[*p, *[0] * (n - len(p))] for (_, p), _ in chosen])
    lengths = torch.tensor([len(t) for (t, _), _ in chosen])
    answers = torch.tensor([evaluate(t) for (t, _), _ in chosen])
    kept = (tokens != PADDING) & (brackets | (tokens != CLOSE))
    numbers, counts = kept.cumsum(1) - 1, kept.sum(1)  # of tokens as vertices
    m = int(counts.max())
    inside = torch.arange(m) < counts[:, None]
    vertices = (~kept).int().argsort(dim=1, stable=True)[:, :m].masked_fill(~inside, 0)
    parents = numbers.gather(1, parents.gather(1, vertices)).masked_fill(~inside, 0)
    return Part(tokens, lengths, vertices, counts, parents, torch.tensor([d for _, d in chosen]), answers)


@functools.lru_cache(maxsize=4)
def parts(count: int, held_out: int, max_length: int, max_depth: int, brackets: bool) -> tuple[Part, Part, Part]:
    """Training, validation and test part, the same in every run; kept for the next one."""
    train, valid, test = make((count, held_out, held_out), max_length, (1, max_depth), seed=0, brackets=brackets)
    return train, valid, test


def batches(part: Part, size: int, generator: torch.Generator | None = None) -> Iterator[Part]:
    """All expressions once, in batches of about equal lengths, on the device of the part.

    Args:
        generator: of the CPU; shuffles expressions of one length, and batches. None: in the order of lengths.
    """
    lengths, counts, device = part.lengths.cpu(), part.counts.cpu(), part.tokens.device
    order = torch.arange(len(part)) if generator is None else torch.randperm(len(part), generator=generator)
    order = order[(lengths * part.tokens.shape[1] + counts)[order].argsort(stable=True)]
    groups = order.split(size)
    widths = [(int(lengths[group[-1]]), int(counts[group].max())) for group in groups]
    numbers = range(len(groups)) if generator is None else torch.randperm(len(groups), generator=generator).tolist()
    return (part.take(groups[i].to(device), *widths[i]) for i in numbers)
