"""What a step asks of a device: operations, waits of the host, floating-point operations."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from models import fused_attention

_NO_WORK = {
    f"aten::{name}"
    for name in (
        "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh", "alias",
        "detach", "set_", "resize_", "sym_size", "_local_scalar_dense",
    )
}  # fmt: skip
"""Calls that are no views and yet start nothing on a device."""

_WAITS = {
    f"aten::{name}"
    for name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim",
                 "unique_consecutive", "bincount")
}  # fmt: skip
"""Calls whose result, or whose size of the result, the host has to know."""


@dataclass
class Counts:
    """Operations and waits of a piece of work.

    Attributes:
        operations: calls of torch's kernels that are no views and no mere allocations; a fused one counts as one.
        waits: calls after which the host waits until the device has finished; on a CPU, calls after which it would.
        peak_bytes: most bytes of tensors made by the work at a time; what kernels use within themselves is not seen.
    """

    operations: int = 0
    waits: int = 0
    peak_bytes: int = 0


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self.bytes: dict[int, int] = {}  # of each living storage by its address; 0 for those that were there before
        self.now = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        self.counts.operations += not func.is_view and name not in _NO_WORK
        self.counts.waits += waits(name, args, kwargs)
        self._follow((args, kwargs), made=False)
        result = func(*args, **kwargs)
        self._follow(result, made=True)
        return result

    def _follow(self, tensors: Any, made: bool) -> None:
        for tensor in tree_leaves(tensors):
            if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self.bytes:
                self.bytes[storage._cdata] = storage.nbytes() if made else 0
                self.now += self.bytes[storage._cdata]
                self.counts.peak_bytes = max(self.counts.peak_bytes, self.now)
                weakref.finalize(storage, self._gone, storage._cdata)

    def _gone(self, address: int) -> None:
        self.now -= self.bytes.pop(address)


def waits(name: str, args: tuple, kwargs: dict) -> bool:
    """Whether the host waits for the device in an operation with these arguments; on a CPU, whether it would."""
    return name in _WAITS or _reads_back(name, args, kwargs) or _sizes_unknown(name, args)


def _reads_back(name: str, args: tuple, kwargs: dict) -> bool:
    """Whether a copy goes from a device to the host."""
    if name == "aten::_to_copy":
        target = kwargs.get("device")
        return target is not None and torch.device(target).type == "cpu" and args[0].device.type != "cpu"
    return name == "aten::copy_" and args[0].device.type == "cpu" and args[1].device.type != "cpu"


def _sizes_unknown(name: str, args: tuple) -> bool:
    """Whether the result's size depends on values: indexing by a mask, repeating by a tensor of counts."""
    if name in ("aten::index", "aten::index_put", "aten::index_put_"):
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return name == "aten::repeat_interleave" and isinstance(args[0], Tensor)


def counted(work: Callable[[], object]) -> Counts:
    """Operations, waits and memory of `work`."""
    with _Counter() as counter:
        work()
    return counter.counts


def allocated(work: Callable[[], object], device: torch.device) -> int | None:
    """Most bytes that a CUDA device's allocator hands out at a time for `work`, beyond those that are there before it;
    None elsewhere."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@dataclass(frozen=True)
class Launches:
    """What the CUDA runtime was asked for: kernels and replays of recorded graphs, and waits of the host."""

    kernels: int
    waits: int


def launches(work: Callable[[], object], device: torch.device) -> Launches | None:
    """As the profiler sees them; None where there is no CUDA device to measure on, or the profiler may not see it."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as traced:
        work()
    names = [event.name() for event in traced.profiler.kineto_results.events()]
    kernels = sum(name.startswith(("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")) for name in names)
    waits = sum(name in ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize") for name in names)
    # The profiler itself waits for the device once when it stops.
    return Launches(kernels, max(0, waits - 1)) if kernels else None


def idle_share(work: Callable[[], object], device: torch.device, times: int = 8, skipped: float = 0.0) -> float | None:
    """Share of the time of several steps in a row in which a CUDA device does nothing; None without one, or where the
    profiler may not see it. A share `skipped` of what the device did first does not count."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as traced:
        for _ in range(times):
            work()
        torch.cuda.synchronize(device)
    events = traced.profiler.kineto_results.events()
    on_device = [event for event in events if event.device_type() == torch.autograd.DeviceType.CUDA]
    spans = sorted((event.start_ns(), event.start_ns() + event.duration_ns()) for event in on_device)
    return idle_between(spans[int(skipped * len(spans)) :]) if spans else None


def idle_between(spans: Iterable[tuple[int, int]]) -> float:
    """Share of the time from the first start to the last end that no (start, end) covers.

    >>> idle_between([(0, 4), (2, 5), (9, 10)])
    0.4
    """
    spans = sorted(spans)
    if not spans:
        return 1.0
    covered, reached = 0, spans[0][0]
    for start, end in spans:
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    return 1 - covered / max(1, reached - spans[0][0])


def flops(work: Callable[[], object]) -> int:
    """FLOPs of the products that torch carries out for `work`, backward passes included; a multiply-add is two.

    Padding counts where it is computed, which attention's kernels do not, and so do scores that they compute a second
    time in their backward pass. Norms, activations and sums count as nothing.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_FUSED)
    counter.mod_tracker = _NoModules()
    with counter:
        work()
    return counter.get_total_flops()


class _NoModules:
    """In place of the counter's book of modules: it hangs hooks on what modules are given, which torch cannot do for
    views of parameters made without gradients. Only the total is wanted."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        """Nothing begins."""

    def __exit__(self, *failure: object) -> None:
        """Nothing ends."""


def _recurrent(steps: Sequence[int], weights: Iterable[Sequence[int]]) -> int:
    """Products of a recurrent layer: its weight matrices once a step and sequence, `steps` (T, n, features)."""
    return 2 * steps[0] * steps[1] * sum(shape[0] * shape[1] for shape in weights if len(shape) == 2)


def _mkldnn(steps, *others, out_shape=None, **_) -> int:  # type: ignore[no-untyped-def]
    return _recurrent(steps, others[:2])


def _cudnn(steps, weights, *_, out_shape=None, **__) -> int:  # type: ignore[no-untyped-def]
    return _recurrent(steps, weights)


def _attention(q, k, v, *_, out_shape=None, **__) -> int:  # type: ignore[no-untyped-def]
    return sdpa_flop_count(q, k, v)


def _attention_backward(gradient, q, k, v, *_, out_shape=None, **__) -> int:  # type: ignore[no-untyped-def]
    return sdpa_backward_flop_count(gradient, q, k, v)


def _of_slots(products: int) -> Callable[..., int]:
    """The formula of attention within slots: so many products of the size of the scores' product."""

    def formula(*arguments: Any, out_val: object = None) -> int:
        used, _dice, _lengths, width, _heads, questions = arguments[-8:-2]
        return products * 2 * width * int((used * (questions or used)).sum())

    formula._get_raw = True  # it needs the number of tokens, not only the shapes of tensors
    return formula


_aten = torch.ops.aten
_FUSED = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten.mkldnn_rnn_layer: _mkldnn,
    _aten.mkldnn_rnn_layer_backward: lambda *shapes, **rest: 2 * _mkldnn(*shapes, **rest),
    fused_attention.FORWARD: _of_slots(products=2),
    fused_attention.BACKWARD: _of_slots(products=7),  # scores and their gradients are computed twice
    _aten._cudnn_rnn: _cudnn,
    _aten._cudnn_rnn_backward: lambda *shapes, **rest: 2 * _cudnn(*shapes, **rest),
}
"""Fused kernels that torch's counter does not know, by the shapes of their tensors unless they ask for the tensors."""
