"""Where a training stands between two epochs, kept in a file, so that a job that was killed goes on from there.

Batches, augmentation and noise of an epoch come from streams that are named by the epoch, so that its number is all
there is to know of the sampler. The numbers of a training that was taken up are those of one that was never stopped.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.files import replacing
from benchmark.training.learning_rate import HalvingRates
from benchmark.training.portions import Portions
from benchmark.training.trace import Trace
from models.contract import Staged

FORMAT = 1
_ABOUT = "course"


@dataclass
class Course:
    """A training under way: everything that its epochs change.

    Attributes:
        portions: computes gradients.
        epoch: the last finished one. best_score, best_epoch, best_state, selected_by: of the epoch that is kept so far.
        history: one row for each epoch and task.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rates: HalvingRates
    trace: Trace | None
    portions: Portions
    epoch: int = 0
    best_score: float = -math.inf
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    selected_by: str = ""
    history: list[dict[str, float | int | str]] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


class Bookmark:
    """The file that keeps a course.

    Args:
        file: is absent as long as nothing was kept. job: name of what is trained; a file of another job is not used.
        every: seconds that must have gone since the last writing; short jobs so never write.
        clock: gives seconds.

    Attributes:
        earlier: seconds of work by calls before this one. resumed_after: the epoch that was the last one then, or None.
    """

    def __init__(self, file: Path, job: str, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.file, self.job, self.every, self._clock = file, job, every, clock
        self.earlier, self.resumed_after = 0.0, None
        self._began = self._written = clock()

    def take_up(self, course: Course) -> None:
        """Brings a course that has just begun to where the file says that it was.

        A file that cannot be read, or that another device or version of torch wrote, is left out with a warning: the
        training then starts from the beginning, and its numbers are the same or, on other ground, not a mixture.

        Raises:
            UserError: the file is whole but does not fit the model.
        """
        if not self.file.exists():
            return
        try:
            about, tensors = _read(self.file)
            ground = {key: about[key] for key in self._ground(course)}
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as fault:
            warnings.warn(f"{self.file} cannot be read ({fault}); the run starts from its first epoch", stacklevel=2)
            return
        if ground != self._ground(course):
            warnings.warn(f"{self.file} is of {ground}; the run starts from its first epoch", stacklevel=2)
            return
        try:
            _restore(course, about, tensors)
        except (KeyError, ValueError, RuntimeError) as fault:
            raise UserError(f"cannot go on from {self.file}: {fault}; delete it to have the run repeated") from fault
        self.earlier, self.resumed_after = about["seconds"], course.epoch

    def after_epoch(self, course: Course) -> None:
        """Keeps the course if it is time to."""
        now = self._clock()
        if now - self._written < self.every:
            return
        about = self._ground(course) | {"seconds": self.earlier + now - self._began} | _facts(course)
        content = save(_tensors(course), {_ABOUT: json.dumps(about, default=lambda value: value.item())})
        with replacing(self.file) as stream:
            stream.write(content)
        self._written = self._clock()

    def _ground(self, course: Course) -> dict[str, Any]:
        """What must be as it was for a course to go on."""
        optimizer = type(course.optimizer).__name__
        facts = {"format": FORMAT, "job": self.job, "device": course.device.type, "optimizer": optimizer}
        return facts | {"torch": torch.__version__}


def _facts(course: Course) -> dict[str, Any]:
    names = ("epoch", "best_score", "best_epoch", "selected_by", "history")
    facts = {name: getattr(course, name) for name in names} | {
        "rates": course.rates.state(),
        "parts": course.portions.parts,
    }
    return facts | ({"trace": [course.trace.segments, course.trace.rows]} if course.trace else {})


def _tensors(course: Course) -> dict[str, Tensor]:
    """All tensors on the CPU by name; the optimizer's state by the place of its parameter."""
    parts = {"model": course.model.state_dict() | dict(course.model.named_buffers()), "best": course.best_state}
    parts |= {f"optimizer.{place}": state for place, state in course.optimizer.state_dict()["state"].items()}
    parts["random"] = {"cpu": torch.get_rng_state()}
    if course.device.type == "cuda":
        parts["random"]["cuda"] = torch.cuda.get_rng_state(course.device)
    # Copies: safetensors refuses tensors that share memory.
    return {
        f"{part}.{name}": value.detach().cpu().contiguous().clone()
        for part, values in parts.items()
        for name, value in values.items()
    }


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(file, "pt") as content:
        about = json.loads((content.metadata() or {})[_ABOUT])
        return about, {name: content.get_tensor(name).clone() for name in content.keys()}  # noqa: SIM118


def _restore(course: Course, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    for name in ("epoch", "best_score", "best_epoch", "selected_by", "history"):
        setattr(course, name, about[name])
    model = course.model
    if isinstance(model, Staged):
        for epoch in range(1, course.epoch + 1):
            model.begin_epoch(epoch)
    state, persistent = _part(tensors, "model"), model.state_dict().keys()
    model.load_state_dict({name: state[name] for name in persistent})
    for name, buffer in model.named_buffers():
        if name not in persistent:
            buffer.copy_(state[name])
    course.best_state = {name: value.to(course.device) for name, value in _part(tensors, "best").items()}
    steps: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(tensors, "optimizer").items():
        place, key = name.split(".", 1)
        steps.setdefault(int(place), {})[key] = value
    groups = course.optimizer.state_dict()["param_groups"]  # the rates in them are set before every segment
    course.optimizer.load_state_dict({"state": steps, "param_groups": groups})
    course.rates.take(about["rates"])
    course.portions.parts = about["parts"]
    if course.trace:
        course.trace.segments, course.trace.rows = about["trace"]
    torch.set_rng_state(tensors["random.cpu"])
    if course.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"], course.device)


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
