"""CUDA graphs on the CPU: a recording is a list of torch's operations on tensors, and a replay carries them out again.

What the host computes while a step is recorded is not computed again when it is replayed, there as here: a number that
depends on the batch, a tensor that a later step replaces, a copy from the host. Streams and the memory of a graph have
no likeness here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from benchmark.training.recording import _aside


class Tape(TorchDispatchMode):
    """Stands in for `torch.cuda.CUDAGraph`.

    Attributes:
        operations: every one that was called, with its arguments. replays: how often they were carried out again.
    """

    made: ClassVar[list[Tape]] = []

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[str, tuple, dict]] = []
        self.recorded: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        self.made.append(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.operations.append((func._schema.name, args, kwargs))
        if not func.is_view:  # a view stays one of the same memory
            held = tree_map_only(Tensor, lambda tensor: tensor.detach(), (args, kwargs, result))
            self.recorded.append((func, *held))
        return result

    def replay(self) -> None:
        self.replays += 1
        # Below autograd, as when they were recorded; some kernels ask whether gradients are wanted.
        with torch._C._AutoDispatchBelowAutograd(), torch.enable_grad():
            for func, args, kwargs, result in self.recorded:
                again = func(*args, **kwargs)
                for place, value in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(place, Tensor) and place.data_ptr() != value.data_ptr():
                        place.copy_(value)


class Stream:
    """Of a device that does one thing after another, in order.

    Attributes:
        current: the one where work is done now. waits: (who, for whom), of all streams.
    """

    current: ClassVar[Stream]
    waits: ClassVar[list[tuple[Stream, Stream]]] = []

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = torch.device("cuda", 0)

    def wait_stream(self, other: Stream) -> None:
        self.waits.append((self, other))


@contextmanager
def _on(stream: Stream) -> Iterator[None]:
    before, Stream.current = Stream.current, stream
    try:
        yield
    finally:
        Stream.current = before


@contextmanager
def _graph(graph: Tape, stream: Stream, **_: object) -> Iterator[None]:
    with _on(stream), graph:
        yield


def use_tapes(patch: pytest.MonkeyPatch) -> list[Tape]:
    """Lets steps be recorded on tapes; the list grows by every one."""
    Tape.made, Stream.waits, Stream.current = [], [], Stream()
    _aside.cache_clear()
    for name, stand_in in (
        ("CUDAGraph", Tape),
        ("graph", _graph),
        ("Stream", Stream),
        ("stream", _on),
        ("current_stream", lambda device=None: Stream.current),
        ("set_stream", lambda stream: setattr(Stream, "current", stream)),
        ("graph_pool_handle", lambda: (0, 1)),
    ):
        patch.setattr(torch.cuda, name, stand_in)
    return Tape.made
