"""Train and evaluate one model; resumes where a killed run stopped.

    python -m examples.listops.train --preset tiny --folder runs/listops-tiny          # seconds
    python -m examples.listops.train --edges tree --folder runs/listops-tree           # the small preset
    python -m examples.listops.train --preset paper --device cuda --folder runs/listops-paper

Every epoch's order and noise follow from the seed and the epoch's number alone, so a resumed run is the same run.
"""

from __future__ import annotations

from examples import command_line  # noqa: F401  (first: Ctrl-C ends quietly from here on)

# isort: split
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from examples import launch
from examples.listops import data
from examples.listops.edges import KINDS, LATENT, UTILITIES
from examples.listops.evaluate import evaluate
from examples.listops.model import Model
from examples.settings import Settings as Common
from examples.settings import positive, setting, width
from examples.training import Run as Base


@dataclass(frozen=True)
class Settings(Common):
    """Everything that a run depends on.

    Raises:
        ValueError: a setting out of range.
    """

    edges: str = setting("arborescence", choices=KINDS, words="what is latent (none: an LSTM; true: given)")
    utilities: str = setting("gumbel", choices=UTILITIES, words="random ones of edges")
    expressions: int = setting(20_000, 1, 10_000_000, words="to train on")
    held_out: int = setting(2_000, 1, 10_000_000, words="expressions of the validation and of the test part")
    max_length: int = setting(35, 7, 1000, words="tokens of an expression")
    max_depth: int = setting(3, 1, 50, words="of an expression; depths have equal shares")
    brackets: int = setting(0, 0, 1, words="whether closing brackets are vertices of the graph, or only read")
    epochs: int = setting(40, 1, 10_000)
    batch: int = setting(100, 1, 100_000)
    hidden: int = width(60)
    rounds: int = setting(3, 1, 100, words="of messages")
    temperature: float = positive(1.2)
    learning_rate: float = positive(3e-3)
    decay: str = setting("cosine", choices=("none", "cosine"), words="of the learning rate, to 0 at the end")
    weight_decay: float = setting(0.01, 0.0, 100.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.edges == "independent" and self.utilities == "exponential":
            raise ValueError("utilities must not be exponential where edges are independent: all would be negative.")


PRESETS = {
    "small": Settings(),
    "paper": Settings(
        expressions=100_000, held_out=10_000, max_length=50, max_depth=5, brackets=1, epochs=50, rounds=5,
        learning_rate=1e-3, decay="none",
    ),
    "tiny": Settings(
        expressions=400, held_out=100, max_length=16, max_depth=2, epochs=4, batch=20, hidden=16, rounds=3,
        learning_rate=5e-3,
    ),
}  # fmt: skip


def parts_of(s: Settings) -> tuple[data.Part, data.Part, data.Part]:
    """Training, validation and test part; the same for all seeds."""
    return data.parts(s.expressions, s.held_out, s.max_length, s.max_depth, bool(s.brackets))


class Run(Base):
    """One model; an epoch that a kill or Ctrl-C interrupts is begun again."""

    settings_type, presets, unit = Settings, PRESETS, "epoch"
    objective = "accuracy"
    save_every = 0.0
    searched: ClassVar = {"learning_rate": (3e-4, 5e-3), "temperature": (0.3, 3.0)}
    settings: Settings
    model: Model

    @classmethod
    def check(cls, settings: Settings, device: str, **options: Any) -> None:
        parts_of(settings)

    @classmethod
    def name(cls, settings: Settings) -> str:
        utilities = f", {settings.utilities}" if settings.edges in LATENT else ""
        return f"{settings.edges}{utilities}, seed {settings.seed}"

    def build(self) -> Model:
        s = self.settings
        self.training, self.valid, self.held = (part.to(self.device) for part in parts_of(s))
        self._seconds = 0.0  # CPU, of all epochs
        return Model(s.edges, s.utilities, s.hidden, s.rounds)

    def make_optimizer(self) -> torch.optim.Optimizer:
        decay, fused = self.settings.weight_decay, self.device.type == "cpu"
        return torch.optim.AdamW(self.model.parameters(), weight_decay=decay, fused=fused, **self.adam_options())

    def state(self) -> dict[str, Any]:
        return super().state() | {"seconds": self._seconds}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._seconds = state["seconds"]

    def train_step(self, batch: data.Part) -> torch.Tensor:
        """One step of AdamW on the cross entropy of the answers along one relaxed sample; the loss."""
        return self.update(cross_entropy(self.model(batch, self.settings.temperature), batch.answers), clip=5.0)

    def advance(self) -> torch.Tensor:
        """Every expression once; the mean loss. Under torchrun each process has its batches, as many as the others."""
        order = list(data.batches(self.training, self.settings.batch, torch.Generator().manual_seed(self.unit_seed)))
        own = self.share_batches(order)
        self.model.train()
        start, losses = time.process_time(), torch.zeros((), device=self.device)
        words = f"epoch {self.done + 1} of {self.total}"
        for batch in tqdm(own, desc=words, leave=False, disable=self.quiet or None):  # None: on terminals alone
            losses += self.train_step(batch)
        self._seconds += time.process_time() - start
        return losses / len(own)

    def validate(self, model: Any) -> dict[str, float]:
        return evaluate(model, self.valid)

    def describe(self, metrics: Mapping[str, float]) -> str:
        shown = [f"{name} {value:.1f} %" for name, value in metrics.items() if name != "loss"]
        return f"validation {', '.join(shown)}"

    def test(self, model: Any) -> dict[str, float]:
        """Along hard samples, of all and by depth; and along the best edges without noise."""
        found = {"seconds": self._seconds / self.done, **evaluate(model, self.held)}
        if self.settings.edges in LATENT:
            best = evaluate(model, self.held, noise=False)
            found |= {f"best edges {name}": value for name, value in best.items()}
        for depth in range(1, self.settings.max_depth + 1):
            part = evaluate(model, self.held.of_depth(depth))
            found |= {f"depth {depth} {name}": value for name, value in part.items() if name != "loss"}
        return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    return launch.main(Run, __doc__, arguments)


if __name__ == "__main__":
    main()
