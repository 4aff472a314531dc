"""One training step: noise, forward, backward and optimizer without waiting for the device; as a CUDA graph, too."""

from __future__ import annotations

import torch
from torch import nn


class Step:
    """A step, called with a batch and the seed of its noise; the loss stays on the device.

    Args:
        model: positions, temperature and generator to NLL, KL and edges.
        before: numbers of the noise that belong to other processes.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, temperature: float, before: int = 0):
        self._model, self._optimizer, self._temperature, self._before = model, optimizer, temperature, before
        self._device = next(model.parameters()).device
        self._generator = torch.Generator(self._device)

    def __call__(self, positions: torch.Tensor, seed: int) -> torch.Tensor:
        self._generator.manual_seed(seed)
        return self._run(positions)

    def _run(self, positions: torch.Tensor) -> torch.Tensor:
        if self._before:
            torch.rand(self._before, generator=self._generator, device=self._device)
        self._optimizer.zero_grad()
        nll, kl, _ = self._model(positions, self._temperature, generator=self._generator)
        loss = (nll + kl).mean()
        loss.backward()
        self._optimizer.step()
        return loss.detach()


class CapturedStep(Step):
    """The same step, recorded once in a CUDA graph and then replayed, as one launch.

    The first steps run eagerly, and count: libraries load, constants move to the device, the optimizer makes its state.
    They run on a stream of their own, on which the graph is then captured (torch's notes on CUDA graphs). What the
    graph reads stays at its address: the batch is copied in, weights change in place. Its generator is registered, so
    that each replay draws from the seed set before it. Nothing is raised in a replay: a failure is a loss of NaN.
    """

    warm_up = 3

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, temperature: float):
        super().__init__(model, optimizer, temperature)
        self._stream = torch.cuda.Stream(self._device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._positions = self._loss = torch.empty(0)

    def __call__(self, positions: torch.Tensor, seed: int) -> torch.Tensor:
        if self.warm_up:
            self.warm_up -= 1
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                loss = super().__call__(positions, seed)
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
            return loss
        if self._graph is None:
            self._positions = positions.clone()
            self._graph = self._captured()
        self._generator.manual_seed(seed)
        self._positions.copy_(positions)
        self._graph.replay()
        return self._loss

    def _captured(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        self._optimizer.zero_grad()  # gradients are to be made in the graph's own memory
        with torch.cuda.graph(graph, stream=self._stream):
            self._loss = self._run(self._positions)
        return graph
