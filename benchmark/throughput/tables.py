"""Tables of measured steps, each complete as data and short to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmark.reporting.names import task_title
from benchmark.reporting.sheets import Sheet
from benchmark.throughput.clock import Spread
from benchmark.throughput.steps import YARDSTICK, Comparison, Measurement, Row, epochs, ratio

NOT_MEASURED = "not measured"
"""Stands where a CUDA device would have to be."""

MIB, GIGA = 2**20, 1e9

STEPS = (
    "ms: median over rounds (least to largest), each round with a fresh batch. Samples/s: of all seeds of the step. "
    "Operations: kernels that torch calls in a training step, views and allocations left out. Waits: calls of a "
    "training step after which the host has to wait for the device, or would, if there were one. GFLOP: products that "
    "a training step carries out, padding included. Peak: those by the median time, as share of one large matrix "
    "product of the same precision in the same run. Idle: share of the time of steps in a row in which the device does "
    "nothing. MiB: tensors of a training step at their peak, beyond parameters, "
    "optimizer and batch.",
    "The making of batches is not part of a step. Note embeddings are part of the batch, as they are in training.",
)
RATIOS = (
    f"How many times longer the {YARDSTICK[0]} form takes in {YARDSTICK[1]}, formed in each round: median over rounds "
    "(least to largest). FLOP: the same of the products of one batch. Noise: the first form of a model timed twice, "
    "second over first. Difference: largest difference of first predictions from those of the first form, relative to "
    "the largest of these.",
)
EPOCH = (
    "Median of a step by steps of an epoch of the task's training samples (Table 2 of the paper, 70 %), summed over "
    "the measured tasks, for one seed. Computed from measured steps; no epoch was run.",
)


def step_sheet(found: Measurement) -> Sheet:
    """One line a model, task and form."""
    rows = [row for comparison in found.comparisons for row in comparison.rows]
    return Sheet(
        "steps",
        "Training and inference, step by step",
        pd.DataFrame([_line(row, found.peaks) for row in rows]),
        pd.DataFrame([_shown(row, found.peaks) for row in rows]),
        (*STEPS, *_absent(found)),
    )


def ratio_sheet(found: Measurement) -> Sheet | None:
    """Against the yardstick, with the noise; None where no model was measured against it."""
    lines, shown = [], []
    for comparison in found.comparisons:
        dense = comparison.yardstick
        for row in comparison.rows:
            if dense is None or row is dense:
                continue
            spreads = {what: ratio(dense, row, what) for what in ("train", "infer")} | {"noise": comparison.noise}
            work = row.seeds * dense.train_flops / row.train_flops
            lines.append(_key(row) | _spreads(spreads) | {"flops": work, "difference": dense_difference(comparison)})
            shown.append(
                _names(row)
                | {
                    "training": times(spreads["train"]),
                    "inference": times(spreads["infer"]),
                    "FLOP": f"{work:.1f}x",
                    "noise": spread(spreads["noise"], "{:.2f}"),
                    "difference": f"{dense_difference(comparison):.0e}",
                }
            )
    if not lines:
        return None
    return Sheet("ratios", "Against the dense form", pd.DataFrame(lines), pd.DataFrame(shown), RATIOS)


def epoch_sheet(found: Measurement) -> Sheet:
    """One line a model and form."""
    titles = {row.model: row.title for comparison in found.comparisons for row in comparison.rows}
    lines, shown = [], []
    for (model, form, dtype, seeds), total in epochs(found).items():
        lines.append({"model": model, "form": form, "dtype": dtype, "seeds": seeds, **total})
        shown.append(
            {
                "model": titles[model],
                "form": form,
                "dtype": dtype,
                "seeds": str(seeds),
                "tasks": str(total["tasks"]),
                "hours an epoch": f"{total['hours']:.3g}",
                "dense form takes": f"{total['ratio']:.1f}x" if "ratio" in total else "-",
            }
        )
    return Sheet("epoch", "An epoch over the tasks", pd.DataFrame(lines), pd.DataFrame(shown), EPOCH)


def dense_difference(comparison: Comparison) -> float:
    return max(row.difference for row in comparison.rows)


def spread(values: Spread, form: str = "{:.1f}") -> str:
    """Median with least and largest.

    >>> spread(Spread(2.0, 1.0, 3.25))
    '2.0 (1.0 to 3.2)'
    """
    return f"{form.format(values.median)} ({form.format(values.low)} to {form.format(values.high)})"


def times(values: Spread) -> str:
    """A ratio with least and largest.

    >>> times(Spread(2.0, 1.0, 3.25))
    '2.0x (1.0 to 3.2)'
    """
    return f"{values.median:.1f}x ({values.low:.1f} to {values.high:.1f})"


def milliseconds(seconds: Sequence[float]) -> Spread:
    return Spread.of([1e3 * value for value in seconds])


def _key(row: Row) -> dict[str, Any]:
    names = ("model", "task", "form", "dtype", "seeds", "batch_size")
    return {name: getattr(row, name) for name in names}


def _names(row: Row) -> dict[str, str]:
    names = {"model": row.title, "task": task_title(row.task), "form": row.form, "dtype": row.dtype}
    return names | {"seeds": str(row.seeds)}


def _spreads(spreads: Mapping[str, Spread]) -> dict[str, float]:
    return {
        name if part == "median" else f"{name}_{part}": getattr(values, part)
        for name, values in spreads.items()
        for part in ("median", "low", "high")
    }


def _line(row: Row, peaks: Mapping[str, float]) -> dict[str, Any]:
    spreads = {"train_ms": milliseconds(row.train), "infer_ms": milliseconds(row.infer)}
    own = (
        "operations",
        "waits",
        "kernels",
        "cuda_waits",
        "train_flops",
        "infer_flops",
        "peak_bytes",
        "difference",
        "idle",
    )
    return (
        _key(row)
        | _spreads(spreads)
        | {"train_samples_per_second": row.train_rate, "infer_samples_per_second": row.infer_rate}
        | {name: getattr(row, name) for name in (*own, "difference")}
        | {"flops_per_second": _speed(row), "device_peak": peaks[row.dtype], "share_of_peak": _share(row, peaks)}
        | {"steps_an_epoch": row.steps}
    )


def _shown(row: Row, peaks: Mapping[str, float]) -> dict[str, str]:
    def counted(value: int | None) -> str:
        return NOT_MEASURED if value is None else f"{value:,}"

    return _names(row) | {
        "training, ms": spread(milliseconds(row.train)),
        "inference, ms": spread(milliseconds(row.infer)),
        "training samples/s": f"{row.train_rate:,.1f}",
        "inference samples/s": f"{row.infer_rate:,.1f}",
        "operations": f"{row.operations:,}",
        "waits": f"{row.waits:,}",
        "CUDA launches": counted(row.kernels),
        "CUDA waits": counted(row.cuda_waits),
        "idle": NOT_MEASURED if row.idle is None else f"{100 * row.idle:.0f} %",
        "GFLOP": f"{row.train_flops / GIGA:,.2f}",
        "of peak": f"{100 * _share(row, peaks):.0f} %",
        "MiB": f"{row.peak_bytes / MIB:,.0f}",
    }


def _speed(row: Row) -> float:
    return row.train_flops / Spread.of(row.train).median


def _share(row: Row, peaks: Mapping[str, float]) -> float:
    return _speed(row) / peaks[row.dtype]


def _absent(found: Measurement) -> Iterable[str]:
    """What was asked for and does not exist, with reasons."""
    missing = dict.fromkeys(part for comparison in found.comparisons for part in comparison.missing)
    return [f"{name}: {NOT_MEASURED} ({reason})." for name, reason in [*found.left_out, *missing]]
