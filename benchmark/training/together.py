"""Trains several seeds of one model side by side; each has the results that it would have alone.

Everything but the steps is what a single training does (`loop.segments`): each seed has its own learning rates,
validation, kept epoch and bookmark. The steps of all seeds that are due for the same part of the same epoch are done
together (`stacked.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmark.data.dataset import PreparedData
from benchmark.data.fixed import FixedSource
from benchmark.data.residency import DeviceStores
from benchmark.random import stream_seed
from benchmark.training.expense import forget_peak_memory
from benchmark.training.learn import Ready, TrainingPlan, make_ready, test_sources
from benchmark.training.loop import EpochReport, Passed, Segment, begin, mean_loss, segments
from benchmark.training.portions import out_of_memory
from benchmark.training.recording import Steps
from benchmark.training.resume import Bookmark
from benchmark.training.stacked import Objective, SeedStack
from benchmark.training.train import Trained, tested
from models.contract import Staged

Outcome = Trained | Exception


class NotTogether(Exception):
    """The model cannot be run on batches of fixed shapes; its seeds are to be trained one after another."""


def train_together(
    plans: Sequence[TrainingPlan],
    data: PreparedData,
    device: torch.device,
    notify: Sequence[Callable[[EpochReport], None]],
    bookmarks: Sequence[Bookmark | None],
) -> list[Outcome]:
    """Trains and tests the model of each plan; the plans differ in the seed alone.

    Returns:
        For each plan its result, or what went wrong with this seed; the others go on without it.

    Raises:
        NotTogether: the model takes packed batches only.
        Whatever concerns all seeds: see `train`.
    """
    started = time.perf_counter()
    forget_peak_memory(device)  # and that of models before: what is free decides which stores lie on the device
    tasks = {name: data.task(name).with_label_fraction(plans[0].label_fraction) for name in plans[0].tasks}
    tests = test_sources(plans[0], data, tasks, device)
    ready = [make_ready(plan, data, tasks, device, tests) for plan in plans]
    if not getattr(ready[0].model, "fixed_shapes", False):
        raise NotTogether(f"{plans[0].model} with these options knows packed batches alone")
    company = _Company(ready, [plan.seed for plan in plans])
    del ready  # the models that the stack was made from
    fitted = company.fit(notify, bookmarks)
    outcomes: list[Outcome] = []
    for plan, own, result, bookmark in zip(plans, company.ready, fitted, bookmarks, strict=True):
        if isinstance(result, Exception):
            outcomes.append(result)
            continue
        try:
            trained = tested(plan, data, own.with_kept(result), tests, started, bookmark)
        except Exception as fault:
            outcomes.append(fault)
            continue
        outcomes.append(replace(trained, info=trained.info | {"seeds_together": len(plans)}))
    return outcomes


class _Company:
    """Seeds that share their steps.

    Attributes:
        ready: as given, with models that share their values with the stack.
    """

    def __init__(self, ready: Sequence[Ready], seeds: Sequence[int]) -> None:
        first = ready[0]
        self.schedule, self.seeds = first.schedule, seeds
        self.stack = SeedStack([each.model for each in ready], first.schedule.clip_norm, first.schedule.half)
        self.device = self.stack.device
        self.steps = Steps(self.stack, record=self.device.type == "cuda")
        self.ready = [each.with_model(self.stack.member(place)) for place, each in enumerate(ready)]
        one = next(iter(first.training.values()))
        stores = DeviceStores(one.data, one.encoder, one.device, one.note_dropout)
        size = self.schedule.batch_size
        self.sources = {task: FixedSource(source, seeds, size, stores) for task, source in first.training.items()}
        self.order = list(first.training)

    def fit(self, notify: Sequence[Callable[[EpochReport], None]], bookmarks: Sequence[Bookmark | None]) -> list[Any]:
        """For each seed what its training keeps (`Fitted`), or the exception that ended it."""
        work = [
            segments(
                begin(each.model, self.stack.optimizer(place), each.training, each.schedule, each.trace),
                each.training,
                each.validation,
                each.schedule,
                notify[place],
                bookmarks[place],
            )
            for place, each in enumerate(self.ready)
        ]
        due: dict[int, Segment] = {}
        results: list[Any] = [None] * len(work)

        def go_on(place: int, passed: Passed | None) -> None:
            try:
                due[place] = work[place].send(passed)
            except StopIteration as end:
                results[place] = end.value
            except Exception as fault:  # a seed's own trouble is its result; want of memory is everybody's
                if out_of_memory(fault):
                    raise
                results[place] = fault

        for place in range(len(work)):
            go_on(place, None)
        while due:
            # Seeds that took up a bookmark may stand at different epochs; the earliest part is trained first.
            now = min(due.values(), key=lambda segment: (segment.epoch, self.order.index(segment.task)))
            taking = {p: due.pop(p) for p, s in list(due.items()) if (s.epoch, s.task) == (now.epoch, now.task)}
            started, recorded = time.perf_counter(), self.steps.seconds
            trained = self._train(now, taking)
            seconds = time.perf_counter() - started - (self.steps.seconds - recorded)
            for place, (losses, samples) in trained.items():
                try:
                    loss = mean_loss(losses, samples, self.ready[place].training[now.task], now.epoch)
                except Exception as fault:
                    results[place] = fault
                    work[place].close()
                else:
                    go_on(place, Passed(loss, seconds))
        return results

    def _train(self, due: Segment, taking: Mapping[int, Segment]) -> dict[int, tuple[Tensor, Tensor]]:
        """One pass of the seeds at the places `taking` over a task's samples; of each one's steps the losses (T,) and
        the samples (T, B)."""
        template, schedule = self.stack.template, self.schedule
        if isinstance(template, Staged):
            template.begin_epoch(due.epoch)
        source = self.sources[due.task]
        weight = schedule.task_weights.get(due.task, 1.0)
        objective = Objective(source.source.task.task.kind, weight, getattr(template, "aux_weights", {}))
        rates = torch.tensor([taking[p].rate if p in taking else 0.0 for p in range(self.stack.seeds)])
        part = torch.tensor([p in taking for p in range(self.stack.seeds)])
        rates, part = rates.to(self.device), part.to(self.device)
        losses, alive, samples = [], [], []
        for batch in source.epoch(due.epoch):
            batch = replace(batch, alive=batch.alive & part)
            streams = [stream_seed(seed, "noise", due.task, due.epoch, batch.step) for seed in self.seeds]
            losses.append(self.steps(batch, objective, rates, streams))
            alive.append(batch.alive)
            samples.append(batch.sample)
        if not losses:  # no seed has a batch with a known label
            return dict.fromkeys(taking, (torch.empty(0), torch.empty(0, 0, dtype=torch.int64)))
        # The one wait of the segment: (T, S), (T, S), (T, S, B)
        values, counted, samples = (torch.stack(parts).cpu() for parts in (losses, alive, samples))
        return {p: (values[counted[:, p], p], samples[counted[:, p], p]) for p in taking}
