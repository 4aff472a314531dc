"""Times, host reads and operations of one call, eager and in a CUDA graph."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Call = Callable[[], Any]

#: Operations whose answer, or its shape, the host waits for.
READS = frozenset(
    f"aten::{name}"
    for name in (
        *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"),
        *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
    )
)
#: Operations that allocate, or that are of autograd's book-keeping, and launch nothing.
SILENT = frozenset(
    f"aten::{name}"
    for name in ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh")
)


class Operations(TorchDispatchMode):
    """Counts ``launched`` operations (neither views nor bare allocations) and ``reads`` by the host, backward too."""

    def __init__(self) -> None:
        super().__init__()
        self.launched, self.reads = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        self.reads += name in READS or _by_mask(name, args) or _to_host(name, args, kwargs)
        self.launched += not (name in SILENT or _is_view(func))
        return func(*args, **kwargs)


def _by_mask(name: str, args: Any) -> bool:
    """Indexing by a bool tensor: it is counted on the host."""
    if name not in ("aten::index", "aten::index_put", "aten::index_put_"):
        return False
    return any(isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def _to_host(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Copies from a device that block."""
    if name == "aten::_to_copy":
        device = kwargs.get("device")
        to_host = device is not None and torch.device(device).type == "cpu" and not args[0].is_cpu
        return to_host and not kwargs.get("non_blocking", False)
    if name == "aten::copy_":
        return args[0].is_cpu and not args[1].is_cpu and not (len(args) > 2 and args[2])
    return False


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def count(call: Call, device: torch.device) -> tuple[int, int]:
    """Host syncs (on the CPU: reads, for which nobody waits) and launched operations of a call after its first."""
    with Operations() as seen:
        call()
    return (seen.reads if device.type != "cuda" else count_syncs(call)), seen.launched


def count_syncs(call: Call) -> int:
    """CUDA's own count of synchronizing calls."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing CUDA operation" in str(warning.message) for warning in told)


def capture(call: Call, warm_up: int = 3) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A call as a CUDA graph, and what it returned: the tensors that each replay fills.

    Tensors that the call reads are the graph's inputs: copy new ones into them.
    """
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # also leaves the stream if capture fails
        for _ in range(warm_up):
            call()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            answer = call()
    torch.cuda.current_stream().wait_stream(stream)
    return graph, answer


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(call: Call, device: torch.device, seconds: float) -> float:
    """Of a call among others in a row, the median of five rounds; of a slow one, its second run."""
    call()
    wait(device)
    begin = time.perf_counter()
    call()
    wait(device)
    once = time.perf_counter() - begin
    if once > seconds:
        return 1e3 * once
    repeats, rounds = max(1, min(1000, int(seconds / 5 / once))), []
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        wait(device)
        rounds.append((time.perf_counter() - begin) / repeats)
    return 1e3 * statistics.median(rounds)
