"""A move between the two ways of labelling edges: a model's mirror, which competes with it for some steps.

The decoder's edge types X and 1 - X are alike but for their messages, so that nothing says which of the two is to mean "a
spring". For independent edges it does not matter. Trees (and top 9) have no complement: a model that takes nine pairs
*without* a spring for X explains less, and no small step leads away. As label-switching moves do for mixture models
(Celeux, Hurn, Robert 2000), one large step does: exchange the labels, and keep what validation finds better.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from examples.graph_layout.model import Model

if TYPE_CHECKING:
    from examples.graph_layout.train import Run


def reflect(model: Model, optimizer: torch.optim.Adam) -> None:
    """Exchange the labels, in place: other signs of the logits, the message networks and what Adam knows of them swapped.

    Twice, it is the same model again.
    """
    with torch.no_grad():
        for p in model.encoder.out.parameters():
            p.neg_()
            if p in optimizer.state:
                optimizer.state[p]["exp_avg"].neg_()
        for p, q in zip(*(network.parameters() for network in model.decoder.messages), strict=True):
            _swap(p, q)
            for name, value in optimizer.state.get(p, {}).items():
                _swap(value, optimizer.state[q][name])


def _swap(a: torch.Tensor, b: torch.Tensor) -> None:
    kept = a.clone()
    a.copy_(b)
    b.copy_(kept)


class Mirror:
    """A run's rival: model, optimizer and step of its own.

    Args:
        state: of a rival, to go on; else it is the run's model, reflected.
    """

    def __init__(self, run: Run, state: dict[str, Any] | None = None):
        self._run = run
        self.model = copy.deepcopy(run.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), **run.adam_options())
        self.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()) if state is None else state["optimizer"])
        if state is None:
            reflect(self.model, self.optimizer)
        else:
            self.model.load_state_dict(state["model"])
        self._step = run.make_step(self.model, self.optimizer)

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def step(self, positions: torch.Tensor, seed: int) -> None:
        """The run's step, on the same batch, noise and learning rate."""
        for group, own in zip(self._run.optimizer.param_groups, self.optimizer.param_groups, strict=True):
            own["lr"] = group["lr"]
        self._step(positions, seed)

    def replace(self) -> None:
        """Become the run's model, in place: a captured step reads where it read before."""
        with torch.no_grad():
            for own, there in zip(self._tensors(self.model, self.optimizer), self._tensors(self._run.model, self._run.optimizer), strict=True):
                there.copy_(own)

    @staticmethod
    def _tensors(model: Model, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
        states = [optimizer.state[p][name] for p in model.parameters() for name in ("step", "exp_avg", "exp_avg_sq")]
        return [*model.state_dict().values(), *states]
