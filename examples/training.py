"""A training run in a folder: the same command goes on where it stopped, and another one's folder is refused.

An experiment derives a class from ``Run``, which says what is built, what a step is, and what is measured; settings,
files, progress, early stopping, decay, averaged weights and several processes are here and in ``settings.py``, once for
all experiments; the command line, with the search of settings, is ``launch.py``, tables of runs are ``tables.py``.

A folder holds ``metrics.jsonl`` (a line a validation), ``last.pt`` (to go on, until the end), ``best.pt`` (settings and
weights that were best in validation) and at the end ``result.json`` (settings and test metrics).

Randomness of a step follows from the seed and the step's number alone, so that a resumed run is the same run.
"""

from __future__ import annotations

import math
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from examples import runs
from examples.settings import Settings


class Run:
    """One training run.

    Args:
        folder: made if it is not there and ``resume`` is True.
        resume: whether to go on from the folder; else nothing is read or written.

    Raises:
        RunError: the folder is of other settings, or damaged.
    """

    settings_type: ClassVar[type[Settings]]
    presets: ClassVar[Mapping[str, Settings]]
    unit: ClassVar[str] = "step"  # of ``advance``, and in the plural, of the settings
    objective: ClassVar[str]  # which of the validation metrics decides
    larger: ClassVar[bool] = True  # whether more of it is better
    searched: ClassVar[Mapping[str, Any]] = {}  # (low, high) log-uniform, or a list of choices, by setting
    seeds_apart: ClassVar[int] = 1_000_003
    save_every: ClassVar[float] = 30.0  # seconds
    options: ClassVar[tuple[str, ...]] = ()  # arguments of the constructor that ``add_options`` makes options

    def __init__(self, settings: Any, folder: Path, device: str = "cpu", resume: bool = True):
        self.settings, self.folder, self.device = settings, folder, torch.device(device)
        joined = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
        if resume:
            folder.mkdir(parents=True, exist_ok=True)
            runs.is_finished(settings, folder)
        torch.manual_seed(settings.seed)
        self.model = self.build().to(self.device)
        self.optimizer = self.make_optimizer()
        self.averaged = self._make_average()
        self.total: int = getattr(settings, f"{self.unit}s")
        self.done = self.saved = self.best_at = 0
        self.best = -math.inf if self.larger else math.inf
        self.quiet = False  # whether to show no progress
        self._loss, self._summed = torch.zeros((), device=self.device), 0  # since the last validation
        if resume:
            self._resume()

    # -- what an experiment gives -----------------------------------------------------------------------------

    def build(self) -> nn.Module:
        """The model. Torch's generator has the run's seed."""
        raise NotImplementedError

    def advance(self) -> torch.Tensor:
        """One step (or epoch) of ``self.model``; its loss, which is not read here. ``update`` takes it from a loss."""
        raise NotImplementedError

    def validate(self, model: Any) -> dict[str, float]:
        """Metrics on the validation part."""
        raise NotImplementedError

    def test(self, model: Any) -> dict[str, float]:
        """Metrics on the test part, of the model that was best."""
        raise NotImplementedError

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), **self.adam_options())

    def adam_options(self) -> dict[str, Any]:
        """The learning rate, and whether a step may be captured in a CUDA graph."""
        return {"lr": self._rate(self.settings.learning_rate), "capturable": self.device.type == "cuda"}

    def _rate(self, rate: float) -> float | torch.Tensor:
        """A learning rate, as a captured step can read it."""
        return torch.tensor(rate, device=self.device) if self.device.type == "cuda" else rate

    def kept(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What of the weights goes into ``best.pt``; the rest is as built."""
        return state

    def describe(self, metrics: Mapping[str, float]) -> str:
        """Of a validation, to be read beside the progress."""
        return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())

    @classmethod
    def name(cls, settings: Any) -> str:
        """Of a run, before its progress."""
        return f"seed {settings.seed}"

    @classmethod
    def add_options(cls, parser: ArgumentParser) -> None:
        """More options of the command line, those of ``options``."""

    @classmethod
    def check(cls, settings: Any, device: str, **options: Any) -> None:
        """Before any work: the data is there, and the options agree.

        Raises:
            ValueError, OSError: they do not, or it is not.
        """

    # -- a step ---------------------------------------------------------------------------------------------------

    @property
    def unit_seed(self) -> int:
        """Of the randomness of the next step."""
        return self.seeds_apart * self.settings.seed + self.done

    def share(self, rows: torch.Tensor) -> torch.Tensor:
        """This process's part of a batch; from here on its noise is its own.

        Raises:
            ValueError: the batch does not divide among the processes.
        """
        if self.world == 1:
            return rows
        if len(rows) % self.world:
            raise ValueError(f"a batch of {len(rows)} does not divide among {self.world} processes.")
        self._draw_own_noise()
        return rows.chunk(self.world)[self.rank]

    def share_batches(self, batches: list[Any]) -> list[Any]:
        """This process's batches of an epoch, as many as the others'; from here on its noise is its own."""
        if self.world == 1:
            return batches
        self._draw_own_noise()
        return batches[self.rank : len(batches) // self.world * self.world : self.world]

    def _draw_own_noise(self) -> None:
        torch.manual_seed(self.unit_seed + 7_919 * (self.rank + 1))

    def update(self, loss: torch.Tensor, clip: float = math.inf) -> torch.Tensor:
        """A step of the optimizer, on gradients that are means over the processes; the loss, detached.

        Raises:
            Diverged: the loss is not finite (where it can be seen without waiting for a device).
        """
        if self.device.type == "cpu":
            finite(loss)
        self.optimizer.zero_grad()
        loss.backward()
        self.average_gradients()
        if clip < math.inf:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        return loss.detach()

    def average_gradients(self) -> None:
        """Over the processes; those of parameters that this one did not use are 0."""
        if self.world == 1:
            return
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        joined = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(joined)
        for p, g in zip(parameters, joined.div_(self.world).split([p.numel() for p in parameters]), strict=True):
            p.grad = g.view_as(p)

    # -- the run --------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Trained to the end, or as long as ``patience`` allows."""
        patience = self.settings.patience
        return self.done >= self.total or bool(patience and self.done - self.best_at >= patience)

    @property
    def evaluated(self) -> nn.Module:
        """The model that is validated: the averaged one, where weights are averaged."""
        return self.model if self.averaged is None else self.averaged.module

    def go(self, quiet: bool = False, minutes: float = math.inf) -> dict[str, Any]:
        """Train to the end, then test the model that was best; what ``result.json`` holds.

        Args:
            minutes: after these it is saved as it stands, and the answer is empty.
        """
        for _ in self.steps(quiet, minutes):
            pass
        return self.result()

    def steps(self, quiet: bool = False, minutes: float = math.inf) -> Iterator[None]:
        """``go``, step by step: several runs may be advanced in turn (``launch.together``)."""
        end = time.monotonic() + 60 * minutes
        if (self.folder / "result.json").exists():
            return
        self.quiet = quiet or self.rank > 0
        with runs.resumable(lambda: runs.go_on(self.folder, self.saved, self.total, self.unit)):
            yield from self._train(end)
            if self.finished:
                self._finish()

    def result(self) -> dict[str, Any]:
        """What ``result.json`` holds; nothing where the run has not ended."""
        file = self.folder / "result.json"
        return runs.read_json(file) if file.exists() else {}

    def _train(self, end: float) -> Iterator[None]:
        hidden = self.quiet or None  # None: a bar on terminals alone
        words, saved = self.name(self.settings), time.monotonic()
        with tqdm(total=self.total, initial=self.done, desc=words, disable=hidden, leave=False, unit=self.unit) as bar:
            while not self.finished and time.monotonic() < end:
                self._advance()
                if self.done % self.settings.validate_every == 0 or self.done == self.total:
                    self._validate(bar)
                if time.monotonic() - saved > self.save_every:
                    self._save()
                    saved = time.monotonic()
                bar.update()
                yield
        if self.done > self.saved:
            self._save()

    def _advance(self) -> None:
        self._set_learning_rate()
        torch.manual_seed(self.unit_seed)
        self._loss += self.advance()
        self._summed, self.done = self._summed + 1, self.done + 1
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)

    def _set_learning_rate(self) -> None:
        if self.settings.decay == "none":
            return
        rate = self.settings.learning_rate * 0.5 * (1 + math.cos(math.pi * self.done / self.total))
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _make_average(self) -> AveragedModel | None:
        if not self.settings.average:
            return None
        return AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(self.settings.average), use_buffers=True)

    def _mean_loss(self) -> float:
        """Since the last validation, over all processes."""
        total = self._loss.clone()
        if self.world > 1:
            dist.all_reduce(total)
        return finite(total) / max(self._summed, 1) / self.world

    def _validate(self, bar: tqdm) -> None:
        loss, metrics = self._mean_loss(), self.validate(self.evaluated)
        value = metrics[self.objective]
        if value > self.best if self.larger else value < self.best:
            self.best, self.best_at = value, self.done
            if not self.rank:
                state = self.kept(self.evaluated.state_dict())
                runs.save({"settings": asdict(self.settings), "model": state}, self.folder / "best.pt")
        if not self.rank:
            line = {self.unit: self.done, "loss": loss, **{f"valid {k}": v for k, v in metrics.items()}}
            runs.append_lines([line], self.folder / "metrics.jsonl")
        self._loss, self._summed = torch.zeros_like(self._loss), 0
        shown = self.describe(metrics)
        if not bar.disable:
            bar.set_postfix_str(shown)
        elif not self.quiet:
            print(f"{self.unit} {self.done}: {shown}", flush=True)

    def _finish(self) -> None:
        """Test metrics, by the best model; ``last.pt`` is no longer needed.

        Raises:
            Diverged: no validation found any number.
        """
        if not self.best_at:
            raise runs.Diverged
        if self.world > 1:  # the first process writes the best model
            dist.barrier()
        self.load_best(runs.load(self.folder / "best.pt", self.device)["model"])
        metrics = self.test(self.model)
        if not self.rank:
            found = {f"best {self.unit}": self.best_at, f"valid {self.objective}": self.best}
            runs.write_json({**asdict(self.settings), **found, **metrics}, self.folder / "result.json")
            (self.folder / "last.pt").unlink(missing_ok=True)
        if self.world > 1:
            dist.barrier()

    # -- files ----------------------------------------------------------------------------------------------------

    def load_best(self, state: Mapping[str, torch.Tensor]) -> None:
        """Weights as ``kept`` left them."""
        self.model.load_state_dict({**self.model.state_dict(), **state})

    @classmethod
    def best_of(cls, folder: Path, device: str = "cpu") -> Self:
        """A run, in progress or finished, with the model that is best so far; nothing is written.

        Raises:
            FileNotFoundError: no run there.
        """
        file = folder / "best.pt"
        if not file.exists():
            raise FileNotFoundError(f"{folder} holds no run ({file.name} is missing): train one first.")
        kept = runs.load(file, device)
        run = cls(cls.settings_type(**kept["settings"]), folder, device, resume=False)
        run.load_best(kept["model"])
        run.model.eval()
        return run

    def state(self) -> dict[str, Any]:
        """What a run goes on from, beside the model, the optimizer and the averaged weights."""
        return {"done": self.done, "best": self.best, "best_at": self.best_at, "summed": self._summed}

    def restore(self, state: dict[str, Any]) -> None:
        """From ``state``."""
        self.done, self.best, self.best_at, self._summed = (state[k] for k in ("done", "best", "best_at", "summed"))

    def restore_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """From its state, which may be of another device."""
        for group in state["param_groups"]:
            group["lr"] = self._rate(float(group["lr"]))
            if "capturable" in group:
                group["capturable"] = self.device.type == "cuda"
        optimizer.load_state_dict(state)

    def _save(self) -> None:
        """Never what has diverged."""
        finite(self._loss)
        if not self.rank:
            whole = {"settings": asdict(self.settings), "model": self.model.state_dict(), "loss": self._loss}
            whole |= {"optimizer": self.optimizer.state_dict(), "state": self.state()}
            if self.averaged is not None:
                whole["averaged"] = self.averaged.state_dict()
            runs.save(whole, self.folder / "last.pt")
        self.saved = self.done

    def _resume(self) -> None:
        file = self.folder / "last.pt"
        if file.exists():
            whole = runs.load(file, self.device)
            runs.refuse_others(self.settings, whole["settings"], file, "--folder", self.settings.elsewhere())
            self.model.load_state_dict(whole["model"])
            self.restore_optimizer(self.optimizer, whole["optimizer"])
            if self.averaged is not None:
                self.averaged.load_state_dict(whole["averaged"])
            self._loss = whole["loss"]
            self.restore(whole["state"])
            self.saved = self.done
        if not self.rank and not (self.folder / "result.json").exists():
            runs.keep_lines(self.folder / "metrics.jsonl", lambda line: line[self.unit] <= self.done)


def finite(loss: torch.Tensor) -> float:
    """A loss, read from its device.

    Raises:
        Diverged: it is not finite.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise runs.Diverged
    return value
