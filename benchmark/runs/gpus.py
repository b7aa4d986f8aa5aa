"""All GPUs of this machine: worker processes that see one device each, and jobs packed on a device by memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmark.runs.executors import AtWork, Choose, Place
from benchmark.runs.job import Job

USABLE = 0.9
"""Share of a device's memory that jobs are packed into."""
PROCESS = 600 * 2**20
"""Bytes that a process takes on a device beside what torch holds for tensors: context and kernels."""

MemoryOf = Callable[[Job], int | None]
"""Bytes that torch is known to hold for a job at its peak; None: not known."""


@dataclass(frozen=True)
class Gpu:
    """A device: what CUDA_VISIBLE_DEVICES calls it, and its memory in bytes."""

    name: str
    memory: int

    @property
    def place(self) -> Place:
        return Place(f"GPU {self.name}", (("CUDA_VISIBLE_DEVICES", self.name),))


def local_gpus() -> list[Gpu]:
    """The devices that this process may use."""
    import os

    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",")[:count] if visible else [str(number) for number in range(count)]
    return [Gpu(name, torch.cuda.get_device_properties(number).total_memory) for number, name in enumerate(names)]


def packed(gpus: Sequence[Gpu], memory_of: MemoryOf, most: int) -> Choose:
    """Chooses by memory: the first waiting job that fits somewhere, on the device with the fewest jobs.

    A job whose need is not known, or exceeds every device, gets a device for itself; what it took is then known for the
    other seeds.

    Args:
        most: jobs on a device at most.
    """

    def needed(job: Job, gpu: Gpu) -> float:
        memory, room = memory_of(job), USABLE * gpu.memory
        return room if memory is None else min(memory + PROCESS, room)

    def choose(waiting: Sequence[Job], at_work: AtWork) -> tuple[int, Place] | None:
        held = {gpu.place: [job for job, place in at_work if place == gpu.place] for gpu in gpus}
        for number, job in enumerate(waiting):
            fitting = [
                gpu
                for gpu in gpus
                if len(held[gpu.place]) < most
                and sum(needed(other, gpu) for other in held[gpu.place]) + needed(job, gpu) <= USABLE * gpu.memory
            ]
            if fitting:
                return number, min(fitting, key=lambda gpu: len(held[gpu.place])).place
        return None

    return choose
