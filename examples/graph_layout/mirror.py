"""A move between the two ways of labelling edges: a model's mirror, which competes with it for some steps.

The decoder's edge types X and 1 - X are alike but for their messages: nothing says which one means "a spring". For
independent edges it does not matter. A tree (and top 9) has no tree for a complement: a model that takes nine pairs
*without* a spring for X explains less, and no small step leads away. One large step does, as label switching does in
mixture models (Stephens 2000): exchange the labels, train both for a while, keep what validation finds better.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from examples.graph_layout.model import Model

if TYPE_CHECKING:
    from examples.graph_layout.train import Run


def reflect(model: Model, optimizer: torch.optim.Optimizer) -> None:
    """Exchange the labels, in place: logits negated, message networks swapped, and so what Adam knows of them.

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


@torch.no_grad()
def centre(model: Model, positions: torch.Tensor) -> None:
    """Shift all logits, which changes no tree, to the least divergence on these graphs.

    It grows exponentially with negated logits, so that a reflected model's is huge. With logits mu + c, the sum of
    mu + c + exp(-mu - c) is least at c = log mean exp(-mu).
    """
    was_training = model.training
    mu = model.eval().edges.utilities(model.encoder(positions)).loc
    model.train(was_training)
    model.encoder.out.bias.add_((-mu).exp().mean().log())


def _swap(a: torch.Tensor, b: torch.Tensor) -> None:
    kept = a.clone()
    a.copy_(b)
    b.copy_(kept)


class Mirror:
    """A run's rival: a model, an optimizer and a step of its own.

    Args:
        state: of a rival, to go on; else the run's model, reflected.
    """

    def __init__(self, run: Run, state: dict[str, Any] | None = None):
        self._run = run
        self.model = copy.deepcopy(run.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), **run.adam_options())
        if state is None:
            self.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
            reflect(self.model, self.optimizer)
            centre(self.model, run.positions[:500])
        else:
            run.restore_optimizer(self.optimizer, state["optimizer"])
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
        own, there = _tensors(self.model, self.optimizer), _tensors(self._run.model, self._run.optimizer)
        with torch.no_grad():
            for mine, its in zip(own, there, strict=True):
                its.copy_(mine)


def _tensors(model: Model, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """All that a model and its Adam hold, in one order."""
    states = [optimizer.state[p][name] for p in model.parameters() for name in ("step", "exp_avg", "exp_avg_sq")]
    return [*model.state_dict().values(), *states]
