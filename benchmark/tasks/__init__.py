"""The prediction tasks, in the order of the paper's tables. One file a task: its record and its label rule."""

from __future__ import annotations

from benchmark.tasks import dec, dia, drg, ihm, los, phe, rea
from benchmark.tasks.record import Task

TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in (ihm, los, dec, phe, rea, dia, drg)}

__all__ = ["TASKS", "Task"]
