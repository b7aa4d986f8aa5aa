"""Tables of growth and of whole steps from the disk."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from benchmark.reporting.names import task_title
from benchmark.reporting.sheets import Sheet
from benchmark.throughput.clock import Spread
from benchmark.throughput.end_to_end import EndToEnd
from benchmark.throughput.scaling import Point, by_work, groups
from benchmark.throughput.tables import GIGA, NOT_MEASURED, milliseconds, spread, times
from benchmark.throughput.training_loop import Loop

SCALING = (
    "One quantity changes at a time. Length: every sample owns everything, with so many hours and note tokens. Missing "
    "rate: of the modalities that a task's samples do not always own. Seeds: fixed form, so many models in a step. "
    "Patients: an epoch of so many samples, one a patient. By its work: the GFLOP of the point, carried out at the "
    "speed of the point with the most.",
)
END_TO_END = (
    "Anew, in every step: a CSV file a stay parsed and discretised, a JPEG file a film decoded, a frozen note encoder "
    "of BERT-base's size run on the batch's notes, one dense step. Its values are random, for no weights of BioBERT "
    "are needed to know what it costs. Here: rows gathered from memory-mapped stores, note embeddings among them, one "
    "packed step. Both in float32. Encoder: the note encoder's part of the step, timed by itself. Left out on the side "
    "of this project: `bench prepare`, which makes the stores once.",
)


LOOP = (
    "Steps of all seeds, as runs in the fixed form have them: batches from stores of made-up samples, films augmented, "
    "random numbers drawn. In the loop: time of an epoch by its steps, median over epochs (least to largest). On one "
    "batch: the same step without new batches. Making: of a batch for all seeds, by itself. Idle: share of an epoch's "
    "time, after its first quarter, in which the device does nothing.",
)


def loop_sheet(found: Sequence[Loop]) -> Sheet:
    """One line a model, task and precision."""
    lines, shown = [], []
    for each in found:
        time, idle = milliseconds(each.loop), each.idle
        names = {"model": each.model, "task": each.task, "dtype": each.dtype, "seeds": each.seeds}
        rate = each.seeds * each.batch_size * 1e3 / time.median
        figures = {"ms": time.median, "ms_low": time.low, "ms_high": time.high, "samples_per_second": rate}
        rest = {"ms_steady": 1e3 * each.steady, "ms_making": 1e3 * each.making, "idle": idle, "recorded": each.recorded}
        lines.append(names | figures | rest)
        shown.append(
            {"model": each.title, "task": task_title(each.task), "dtype": each.dtype, "seeds": str(each.seeds)}
            | {
                "in the loop, ms": spread(time),
                "on one batch, ms": f"{1e3 * each.steady:,.1f}",
                "making, ms": f"{1e3 * each.making:,.1f}",
                "samples/s": f"{rate:,.1f}",
                "idle": NOT_MEASURED if idle is None else f"{idle:.1%}",
            }
        )
    return Sheet("training-loop", "The training loop", pd.DataFrame(lines), pd.DataFrame(shown), LOOP)


def scaling_sheet(points: Sequence[Point]) -> Sheet:
    """One line a value of a quantity."""
    lines, shown = [], []
    for group in groups(points):
        for point, expected in zip(group, by_work(group), strict=True):
            names = {"model": point.model, "task": point.task, "form": point.form, "quantity": point.quantity}
            time = milliseconds(point.seconds)
            figures = {"ms": time.median, "ms_low": time.low, "ms_high": time.high, "flops": point.work}
            lines.append(names | {"value": point.value} | figures | {"ms_by_work": 1e3 * expected})
            shown.append(
                {"model": point.title, "task": task_title(point.task), "form": point.form}
                | {
                    "quantity": point.quantity,
                    "value": f"{point.value:g}",
                    "ms": spread(time),
                    "GFLOP": f"{point.work / GIGA:,.2f}",
                    "ms by its work": f"{1e3 * expected:,.1f}",
                }
            )
    return Sheet("scaling", "How the cost grows", pd.DataFrame(lines), pd.DataFrame(shown), SCALING)


def end_to_end_sheet(found: Sequence[EndToEnd]) -> Sheet:
    """One line a model and task."""
    lines, shown = [], []
    for each in found:
        names = {"model": each.model, "task": each.task, "batch_size": each.batch_size, "threads": each.threads}
        spreads = {name: Spread.of(list(getattr(each, name))) for name in ("anew", "here", "encoder")}
        figures = {f"{name}_seconds": value.median for name, value in spreads.items()}
        ratio = {"ratio": each.ratio.median, "ratio_low": each.ratio.low, "ratio_high": each.ratio.high}
        lines.append(names | figures | ratio)
        shown.append(
            {
                "model": each.title,
                "task": task_title(each.task),
                "threads": str(each.threads),
                "anew, s": spread(spreads["anew"], "{:.2f}"),
                "encoder of it, s": spread(spreads["encoder"], "{:.2f}"),
                "here, s": spread(spreads["here"], "{:.3f}"),
                "ratio": times(each.ratio),
            }
        )
    return Sheet("end-to-end", "One step from the disk", pd.DataFrame(lines), pd.DataFrame(shown), END_TO_END)
