"""Figure 6: which experts are chosen for which task and combination of modalities."""

from __future__ import annotations

import matplotlib
import pandas as pd

from benchmark.analysis.routing import distances, frequencies, mean_over_seeds
from benchmark.reporting.figures.style import STYLE, Drawn, Facts, heat, new_figure
from benchmark.reporting.names import task_title

_GROUPS = {"task": "task", "combination": "modalities"}


def draw_routing(use: pd.DataFrame, facts: Facts) -> list[Drawn]:
    """Two pictures of the first seed: by choice, and weighted by gates.

    Args:
        use: as `expert_use` gives it, with a column seed. Experts of different seeds are not the same, so that their
        frequencies have no mean; distances between rows have.
    """
    return [_draw(use, facts, weighted) for weighted in (False, True)]


def _draw(use: pd.DataFrame, facts: Facts, weighted: bool) -> Drawn:
    seeds = sorted(use["seed"].unique())
    shares = {by: _by_seed(use, by, weighted) for by in _GROUPS}
    apart = {by: {seed: distances(frame) for seed, frame in frames.items()} for by, frames in shares.items()}
    first = {by: frames[seeds[0]] for by, frames in shares.items()}
    high = max(frame.to_numpy().max() for frame in first.values())
    with matplotlib.rc_context(STYLE):
        figure = new_figure(4.3, facts)
        rows = [len(frame) for frame in first.values()]
        panels = figure.subplots(2, 2, width_ratios=(1.45, 1), height_ratios=rows, squeeze=False)
        for row, by in enumerate(_GROUPS):
            left, right = panels[row]
            heat(left, _titled(first[by], by), "Blues", 0, high, 2)
            named = _titled(mean_over_seeds(apart[by]), by)
            heat(right, named.set_axis(named.index, axis=1), "Oranges", 0, 1, 2)
            left.set_title(f"({'ab'[row]}) {'gate weight' if weighted else 'frequency'} by {_GROUPS[by]}", loc="left")
            right.set_title("Jensen-Shannon distance", loc="left")
            right.tick_params(axis="x", labelrotation=0 if by == "task" else 45)
            if by == "combination":
                for label in right.get_xticklabels():
                    label.set(ha="right", rotation_mode="anchor")
        panels[1, 0].set_xlabel("expert")
    name = "figure6-gate-weighted" if weighted else "figure6"
    tables = {"": _long(shares, "share"), "distances": _long(apart, "distance")}
    return Drawn(name, _caption(use, facts, weighted), figure, facts, tables)


def _by_seed(use: pd.DataFrame, by: str, weighted: bool) -> dict[int, pd.DataFrame]:
    return {seed: frequencies(part, by, weighted) for seed, part in use.groupby("seed")}


def _titled(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    return frame.set_axis([task_title(name) if by == "task" else name for name in frame.index], axis=0)


def _long(frames: dict[str, dict[int, pd.DataFrame]], value: str) -> pd.DataFrame:
    """One row a number: grouped_by, seed, group, expert (or other group), and the value."""
    across = "expert" if value == "share" else "other"
    parts = [
        frame.rename_axis("row").reset_index().melt("row", var_name=across, value_name=value)
        .assign(grouped_by=by, seed=seed)
        for by, seeds in frames.items()
        for seed, frame in seeds.items()
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)[["grouped_by", "seed", "row", across, value]]


def _caption(use: pd.DataFrame, facts: Facts, weighted: bool) -> str:
    seeds = sorted(use["seed"].unique())
    one = use[use["seed"] == seeds[0]]
    total = one.drop_duplicates(["task", "combination"])["tokens"].sum()
    k = round(one["chosen"].sum() / total)
    what = (
        "Sum of the gates of an expert, as a share of the routed tokens of a group; rows sum to 1."
        if weighted
        else f"Share of the routed tokens of a group that are sent to an expert; rows sum to {k}, the experts a token."
    )
    return (
        f"{facts.line}. Use of experts in eval mode, seed {seeds[0]}: {total:,} tokens of all test samples. {what} "
        "(a) by task, over all combinations; (b) by combination, over all tasks. Right: Jensen-Shannon distances "
        f"(base 2, 0 to 1) between rows, mean over {len(seeds)} seed{'s' * (len(seeds) > 1)}; experts of different "
        "seeds have nothing in common but their number."
    )
