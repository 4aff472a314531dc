"""Connectionist temporal classification: symbols of n frames that spell a target once repeats are merged and blanks
left out; x[t, s] = 1 where frame t emits symbol s.

Graves, Fernandez, Gomez, Schmidhuber (2006): with log-probabilities for utilities, the log-partition is the
log-likelihood of the target, -``torch.nn.functional.ctc_loss``. States are the target's symbols with blanks around
each; a way through them, frame by frame, is an element.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch

import sst_cvx as sst
from polytopes.lattice import Lattice
from sst_cvx.arguments import check_size


class ConnectionistTemporal(Lattice, final=True):
    """Frame labellings that collapse to one target; event shape ``(n, symbols)``.

    Args:
        target: the symbols to be spelt, without blanks; may be empty.
        n: number of frames.
        symbols: number of symbols, the blank included.
        blank: the symbol that spells nothing.

    Raises:
        TypeError, ValueError: no such numbers; a blank in the target; fewer frames than symbols, plus one between
            equal neighbours.
    """

    def __init__(self, target: torch.Tensor | Sequence[int], n: int, symbols: int, blank: int = 0):
        self.n, self.symbols = check_size("n", n, 1), check_size("symbols", symbols, 1)
        self.blank = check_size("blank", blank, 0, symbols - 1)
        given = target.tolist() if isinstance(target, torch.Tensor) else list(target)
        self.target = tuple(check_size("target", s, 0, symbols - 1) for s in given)
        if blank in self.target:
            raise ValueError(f"target must not contain the blank, {blank}: it is put in between.")
        emitted = np.full(2 * len(self.target) + 1, blank)
        emitted[1::2] = self.target
        states = len(emitted)
        # From a state to itself, the next, and past a blank to another symbol.
        to, back = (a.ravel() for a in np.indices((states, 3)))
        past = (back < 2) | ((emitted[to] != blank) & (emitted[to] != emitted[(to - 2) % states]))
        legal = (back <= to) & past
        to, back = to[legal], back[legal]
        frame, which = (a.ravel() for a in np.indices((n - 1, len(to))))
        tails = np.concatenate([np.zeros(min(2, states), int), 1 + frame * states + (to - back)[which]])
        head_frame = np.concatenate([np.zeros(min(2, states), int), frame + 1])
        head_state = np.concatenate([np.arange(min(2, states)), to[which]])
        final = (head_frame == n - 1) & (head_state >= states - 2)
        end = 1 + n * states
        heads = np.where(final, end, 1 + head_frame * states + head_state)
        empty = f"{n} frames are too few for this target: one a symbol, and one between equal neighbours."
        super().__init__((n, symbols), tails, heads, head_frame * symbols + emitted[head_state], 0, end, empty)

    def length_mask(self, lengths: torch.Tensor) -> torch.Tensor:
        """Mask of frames padded to n: ``(*batch,)`` integers to ``(*batch, n, symbols)`` bool."""
        within = sst.length_mask(lengths, self.n)
        return within[..., None].expand(*within.shape, self.symbols)

    def fillers(self, allowed: torch.Tensor) -> torch.Tensor:
        """Blanks in the last frames that a mask cuts off altogether: they are not there."""
        gone = allowed.any(-1).flip(-1).cumsum(-1).flip(-1) == 0
        return torch.nn.functional.pad(gone[..., None], (self.blank, self.symbols - 1 - self.blank))

    def _key(self) -> Hashable:
        return self.target, self.n, self.symbols, self.blank

    def __repr__(self) -> str:
        return f"ConnectionistTemporal({list(self.target)}, n={self.n}, symbols={self.symbols}, blank={self.blank})"
