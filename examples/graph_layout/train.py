"""Train and evaluate one model; resumes where a killed run stopped.

    python -m examples.graph_layout.train --edges tree --preset small --folder runs/tree-0
    python -m examples.graph_layout.train --edges tree --device cuda --graph --folder runs/tree-1
    torchrun --nproc-per-node 2 -m examples.graph_layout.train --edges tree --folder runs/tree-0

With --graph, a whole step is one CUDA graph. Without, no step waits for the device, either: losses are read where they
are written, and batches and noise are made where the model is.

Every step's data and noise follow from the seed and the step's number alone, so a resumed run is the same run.
"""

from __future__ import annotations

from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from examples import runs
from examples.graph_layout import data
from examples.graph_layout.edges import REGULARIZERS, EdgeDistribution
from examples.graph_layout.evaluate import evaluate
from examples.graph_layout.model import Model
from examples.graph_layout.step import CapturedStep, Step

SAVE_EVERY = 45.0  # seconds


@dataclass(frozen=True)
class Settings:
    """Everything that makes a run.

    Raises:
        ValueError: a setting out of range.
    """

    edges: str = "tree"
    regularizer: str = "exponential"
    frames: int = 10
    sizes: tuple[int, int, int] = (50_000, 10_000, 10_000)
    hidden: int = 256
    steps: int = 50_000
    batch: int = 128
    learning_rate: float = 3e-4
    temperature: float = 0.5
    roll_out: int = 0  # steps on the decoder's own predictions; 0 is the paper's: T - 1, but 10 for T = 20
    validate_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        runs.check_range(self, steps=(1, math.inf), batch=(1, self.sizes[0]), validate_every=(1, math.inf))
        runs.check_range(self, hidden=(1, runs.MOST_HIDDEN), frames=(2, 1000), seed=(0, command_line.MOST_SEED))
        runs.check_positive(self, "learning_rate", "temperature")
        if not 0 <= self.roll_out < self.frames:
            raise ValueError(f"roll_out must be 1 to {self.frames - 1}, or 0 for the paper's, got {self.roll_out}.")


PRESETS = {
    "paper": {},  # as the defaults above
    # Teacher forcing: with roll-outs, 4,000 steps do not find the edges yet (RESULTS.md).
    # Rate and temperature: what the search selected for trees.
    "small": {"sizes": (10_000, 1000, 1000), "hidden": 64, "steps": 1000, "batch": 64, "learning_rate": 1.3e-3}
    | {"temperature": 1.1, "roll_out": 1, "validate_every": 250},
    "tiny": {
        "sizes": (256, 128, 128),
        "hidden": 16,
        "steps": 40,
        "batch": 32,
        "learning_rate": 2e-3,
        "validate_every": 20,
    },
}


class Run:
    """One training run in a folder: metrics.jsonl, last.pt (to resume), best.pt (best validation ELBO).

    Args:
        graph: whether steps are replayed from a CUDA graph; the same run otherwise.

    Raises:
        ValueError: a graph elsewhere than in one process on a CUDA device.
    """

    def __init__(self, settings: Settings, folder: Path, device: str, graph: bool = False):
        if graph and (reason := no_graph(device)):
            raise ValueError(reason)
        self.settings, self.folder, self.device = settings, folder, torch.device(device)
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        if settings.batch % self.world:
            raise ValueError(f"a batch of {settings.batch} does not divide among {self.world} processes.")
        folder.mkdir(parents=True, exist_ok=True)
        self.parts = data.make(settings.sizes, settings.frames)
        self.positions = self.parts[0].positions.to(self.device)
        torch.manual_seed(settings.seed)
        edges = EdgeDistribution(settings.edges, settings.regularizer)
        roll_out = settings.roll_out or min(settings.frames - 1, 10)
        self.model = Model(settings.frames, settings.hidden, edges, roll_out).to(self.device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=settings.learning_rate, capturable=self.device.type == "cuda"
        )
        self.step, self.saved, self.best = 0, 0, float("-inf")
        self._epoch, self._order = -1, torch.empty(0)
        self._resume()
        self._step = self._make_step(graph)

    def _make_step(self, graph: bool) -> Step:
        temperature = self.settings.temperature
        if graph:
            return CapturedStep(self.model, self.optimizer, temperature)
        model = DistributedDataParallel(self.model) if self.world > 1 else self.model
        # The noise of the joined batch: this process's part begins after those of the others.
        before = self.rank * self.settings.batch // self.world * self.model.edges.noise
        return Step(model, self.optimizer, temperature, before)

    def _resume(self) -> None:
        path = self.folder / "last.pt"
        if path.exists():
            state = runs.load(path, self.device)
            runs.refuse_others(self.settings, json.loads(state["settings"]), path, "--folder")
            self.model.load_state_dict(state["model"])
            for group in state["optimizer"]["param_groups"]:  # it may be of another device
                group["capturable"] = self.device.type == "cuda"
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = self.saved = state["step"]
            self.best = state["best"]
        if not self.rank:
            runs.keep_lines(self.folder / "metrics.jsonl", lambda line: line["step"] <= self.step)

    def _save(self, loss: torch.Tensor) -> None:
        """Never what has diverged."""
        _finite(loss)
        if not self.rank:
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
            state |= {"best": self.best, "settings": json.dumps(asdict(self.settings))}
            runs.save(state, self.folder / "last.pt")
        self.saved = self.step

    def _batch(self) -> torch.Tensor:
        """This process's part of the batch of this step."""
        s = self.settings
        epoch, place = divmod(self.step, len(self.positions) // s.batch)
        if epoch != self._epoch:
            order = torch.randperm(len(self.positions), generator=torch.Generator().manual_seed(1000 * s.seed + epoch))
            self._epoch, self._order = epoch, order.to(self.device)
        own = self._order[place * s.batch : (place + 1) * s.batch].chunk(self.world)[self.rank]
        return self.positions.index_select(0, own)

    def advance(self) -> torch.Tensor:
        """One step; its loss, on the device."""
        loss = self._step(self._batch(), 1_000_003 * self.settings.seed + self.step)
        self.step += 1
        return loss

    def train(self) -> dict[str, float]:
        """Until the last step; the test metrics of the model that was best on the validation part."""
        with runs.resumable(lambda: runs.go_on(self.folder, self.saved, self.settings.steps)):
            self._train()
            if dist.is_initialized():
                dist.barrier()
            return self._test()

    def _train(self) -> None:
        self.model.train()
        saved = time.monotonic()
        steps = range(self.step, self.settings.steps)
        self.bar = tqdm(steps, desc=self.settings.edges, disable=True if self.rank else None)  # None: on a terminal
        for _ in self.bar:
            loss, last = self.advance(), self.step == self.settings.steps
            if last or self.step % self.settings.validate_every == 0:
                self._validate(self._over_processes(loss))
            if last or time.monotonic() - saved > SAVE_EVERY:
                self._save(loss)
                saved = time.monotonic()

    def _over_processes(self, loss: torch.Tensor) -> float:
        if self.world > 1:
            dist.all_reduce(loss)
        return _finite(loss) / self.world

    def _validate(self, loss: float) -> None:
        metrics = evaluate(self.model, self.parts[1])
        if metrics["elbo"] > self.best:
            self.best = metrics["elbo"]
            if not self.rank:
                runs.save(self.model.state_dict(), self.folder / "best.pt")
        if not self.rank:
            entry = {"step": self.step, "loss": loss, **{f"valid {k}": v for k, v in metrics.items()}}
            runs.append_lines([entry], self.folder / "metrics.jsonl")
        shown = f"validation ELBO {metrics['elbo']:.0f}, precision {metrics['precision']:.1f} %"
        if not self.bar.disable:
            self.bar.set_postfix_str(shown)
        elif not self.rank:
            print(f"step {self.step}: {shown}", flush=True)

    def _test(self) -> dict[str, float]:
        self.model.load_state_dict(runs.load(self.folder / "best.pt", self.device))
        metrics = evaluate(self.model, self.parts[2])
        metrics |= {f"{k}, batch statistics": v for k, v in evaluate(self.model, self.parts[2], frozen=False).items()}
        if not self.rank:
            runs.write_json({**asdict(self.settings), **metrics}, self.folder / "test.json")
        return metrics


def _finite(loss: torch.Tensor) -> float:
    """A loss, read from its device.

    Raises:
        runs.Diverged: it is not finite.
    """
    value = float(loss)
    if not math.isfinite(value):
        raise runs.Diverged
    return value


def no_graph(device: str) -> str:
    """Why steps cannot be a CUDA graph, or nothing."""
    if torch.device(device).type != "cuda":
        return f"a CUDA graph needs a CUDA device, got {device!r}."
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "a CUDA graph holds the steps of one process, not of several under torchrun."
    return ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What a search has, too."""
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--edges", choices=["independent", "top", "tree"], default="tree")
    parser.add_argument("--regularizer", choices=list(REGULARIZERS), default="exponential")
    parser.add_argument("--frames", type=int, choices=[10, 20], default=10)
    for name in ("learning-rate", "temperature"):
        parser.add_argument(f"--{name}", type=command_line.real(above=0), help="default by preset, or searched")
    parser.add_argument(
        "--folder", type=command_line.folder, required=True, help="metrics and checkpoints; resumed if they exist"
    )
    parser.add_argument("--device", type=command_line.device, default="cpu")
    parser.add_argument("--graph", action="store_true", help="the whole step as one CUDA graph (one CUDA device)")


def parse(arguments: list[str] | None = None) -> tuple[Settings, Path, str, bool]:
    """Settings, folder, device and whether to use a CUDA graph, of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    for name, kind in (("steps", command_line.whole(1)), ("roll-out", int), ("seed", command_line.seed)):
        parser.add_argument(f"--{name}", type=kind, help="default by preset")
    options = vars(parser.parse_args(arguments))
    folder, device, preset = options.pop("folder"), options.pop("device"), PRESETS[options.pop("preset")]
    graph = options.pop("graph")
    if graph and (reason := no_graph(device)):
        parser.error(f"argument --graph: {reason}")
    try:
        return Settings(**(preset | {k: v for k, v in options.items() if v is not None})), folder, device, graph
    except ValueError as error:
        parser.error(str(error))


def main(arguments: list[str] | None = None) -> dict[str, float]:
    settings, folder, device, graph = parse(arguments)
    joined = "WORLD_SIZE" in os.environ and not dist.is_initialized()
    if joined:  # under torchrun
        if device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    run = Run(settings, folder, device, graph)
    metrics = run.train()
    if not run.rank:
        print(json.dumps(metrics, indent=1))
    if joined:
        dist.destroy_process_group()
    return metrics


if __name__ == "__main__":
    main()
