"""Steps as they are, or recorded once for each shape and replayed.

A step of small products is bound by the time the host needs to launch them. A CUDA graph launches all of them at once:
the step is run once while the device's stream records it, with all inputs at fixed places, and later steps copy their
inputs to these places and replay. Recordings share one pool of memory, because only one runs at a time.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from benchmark.data.stacked import StackedBatch
from benchmark.training.portions import out_of_memory
from benchmark.training.stacked import Objective, SeedStack
from models.layout import keeping

WARM_UP = 3
"""Steps before a recording, in which libraries choose their kernels and take their workspaces."""


@dataclass
class _Recording:
    graph: torch.cuda.CUDAGraph
    batch: StackedBatch
    noise: tuple[Tensor, Tensor]
    rates: Tensor
    losses: Tensor
    kept: list  # index tensors that the graph reads


class Steps:
    """Trains a stack batch by batch.

    Args:
        stack: the models. record: replay recordings; needs a CUDA device. Otherwise every step is run as it is; so it
            is too, with a warning, where the device refuses to record.

    Attributes:
        seconds: that recordings took so far. They are no part of the time of the steps.
    """

    def __init__(self, stack: SeedStack, record: bool) -> None:
        if record and stack.device.type != "cuda":
            raise ValueError(f"steps on {stack.device} cannot be recorded; that needs a CUDA device")
        self.stack, self.record, self.seconds = stack, record, 0.0
        self._recordings: dict[object, _Recording] = {}
        self._pool = torch.cuda.graph_pool_handle() if record else None

    def __len__(self) -> int:
        """Shapes whose step is recorded."""
        return len(self._recordings)

    def __call__(self, batch: StackedBatch, objective: Objective, rates: Tensor, streams: Sequence[int]) -> Tensor:
        """One step of all seeds; returns their losses (S,).

        Args:
            rates: (S,) learning rates. streams: numbers of the seeds' streams of noise for this step.
        """
        noise = self.stack.draw(batch, streams)
        self.prepare(batch, objective, rates, noise)
        if not self.record:
            return self.stack.step(batch, objective, rates, noise)
        recording = self._recordings[batch.task, batch.room]
        self._bring(recording, batch, rates, noise)
        recording.graph.replay()
        return recording.losses.clone()

    def prepare(self, batch: StackedBatch, objective: Objective, rates: Tensor, noise: tuple[Tensor, Tensor]) -> None:
        """Records the step that a batch of this shape needs, if it is to be recorded and is not yet; no training."""
        key = (batch.task, batch.room)
        if self.record and key not in self._recordings:
            self._try_to_record(key, batch, objective, rates, noise)

    def _try_to_record(
        self, key: object, batch: StackedBatch, objective: Objective, rates: Tensor, noise: tuple[Tensor, Tensor]
    ) -> None:
        """Adds a recording, or gives up recording; the stack's state is afterwards what it was before."""
        if self.stack.device.type == "cuda":
            torch.cuda.synchronize(self.stack.device)  # earlier steps are not to count as part of it
        started = time.perf_counter()
        before = [tensor.clone() for tensor in self.stack.state()]
        try:
            self._recordings[key] = self._recorded(batch, objective, rates, noise)
        except RuntimeError as fault:
            if out_of_memory(fault):
                raise
            self.record = False
            self._recordings.clear()
            reason = (str(fault).splitlines() or [type(fault).__name__])[0]
            warnings.warn(f"steps are not recorded, which makes them slower: {reason}", stacklevel=4)
        finally:
            for tensor, value in zip(self.stack.state(), before, strict=True):
                tensor.copy_(value)
            self.seconds += time.perf_counter() - started

    def _recorded(
        self, batch: StackedBatch, objective: Objective, rates: Tensor, noise: tuple[Tensor, Tensor]
    ) -> _Recording:
        """Records a step, for which the stack takes some."""
        batch = batch.with_tensors({name: value.clone() for name, value in batch.tensors.items()})
        noise, rates = (noise[0].clone(), noise[1].clone()), rates.clone()
        aside, current = _aside(self.stack.device), torch.cuda.current_stream(self.stack.device)
        aside.wait_stream(current)
        try:
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    self.stack.step(batch, objective, rates, noise)
        finally:  # also where one fails: what it began must not meet what follows
            current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with keeping() as kept, _recording(graph, self._pool, aside):
            losses = self.stack.step(batch, objective, rates, noise)
        return _Recording(graph, batch, noise, rates, losses, kept)

    @staticmethod
    def _bring(recording: _Recording, batch: StackedBatch, rates: Tensor, noise: tuple[Tensor, Tensor]) -> None:
        """Copies the inputs of a step to where the recording reads them."""
        ours, theirs = recording.batch.tensors, batch.tensors
        pairs = [(ours[name], theirs[name]) for name in ours]
        pairs += [*zip(recording.noise, noise, strict=True), (recording.rates, rates)]
        for place, value in pairs:
            place.copy_(value, non_blocking=True)


@cache
def _aside(device: torch.device) -> torch.cuda.Stream:
    """The stream where steps are warmed up and recorded. It is the same for all recordings, because libraries take a
    workspace for every stream and keep it."""
    return torch.cuda.Stream(device)


@contextmanager
def _recording(graph: torch.cuda.CUDAGraph, pool: tuple[int, int], stream: torch.cuda.Stream) -> Iterator[None]:
    """Records what is done meanwhile on `stream`, with memory of `pool`.

    Where a recording cannot be ended, torch leaves its stream the current one, its allocator waiting for the end, so
    that no memory that two streams have used would be given back any more, and the device's generator refusing to draw.
    All are put right here, for steps to go on.
    """
    before = torch.cuda.current_stream(stream.device)
    try:
        # Other threads, which fetch later batches meanwhile, are not to break the recording.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            yield
    except BaseException:
        torch.cuda.set_stream(before)
        with suppress(RuntimeError, AttributeError):  # says that the allocator knows of the end
            torch._C._cuda_endAllocateToPool(stream.device.index, pool)
            torch._C._cuda_releasePool(stream.device.index, pool)
        generator = torch.cuda.default_generators[stream.device.index]
        generator.graphsafe_set_state(generator.clone_state())  # the same numbers, no longer part of a recording
        raise
