"""Figure 6: which experts a trained network sends the tokens of which task and combination to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import jensenshannon

from benchmark.errors import UserError
from benchmark.training import Restored
from benchmark.training.predict import EVALUATION_BATCH
from models.contract import MODALITIES
from models.mask import COMBINATIONS


def expert_use(restored: Restored) -> pd.DataFrame:
    """How often each expert is chosen in eval mode, over all test samples.

    Returns:
        One row for each task, combination and expert: tokens (routed ones of that task and combination), chosen (those
        whose top k contain the expert), weight (sum of their gates for the expert).

    Raises:
        UserError: the model has no experts.
    """
    rows = []
    for task, source in restored.tests.items():
        chosen = weight = tokens = 0
        for part in np.split(np.arange(len(source)), range(EVALUATION_BATCH, len(source), EVALUATION_BATCH)):
            with torch.inference_mode():
                seen = restored.model(source.batch(part).inputs).diagnostics
            if "gates" not in seen:
                raise UserError("the model has no experts, so there is nothing to say of their use")
            gates = seen["gates"].double().cpu().numpy()  # (B, combinations, experts), zero where not routed
            tokens = tokens + seen["complete"].cpu().numpy().sum(0)
            chosen, weight = chosen + (gates > 0).sum(0), weight + gates.sum(0)
        for c, combination in enumerate(_names(len(tokens))):
            for expert in range(chosen.shape[1]):
                row = {"task": task, "combination": combination, "expert": expert + 1, "tokens": int(tokens[c])}
                rows.append(row | {"chosen": int(chosen[c, expert]), "weight": float(weight[c, expert])})
    return pd.DataFrame(rows)


def _names(count: int) -> list[str]:
    """What experts work on: the combinations, or the single modalities in a network without these."""
    if count == len(MODALITIES):
        return list(MODALITIES)
    return [
        "+".join(name for name, there in zip(MODALITIES, members, strict=True) if there) for members in COMBINATIONS
    ]


def frequencies(use: pd.DataFrame, by: str, weighted: bool = False) -> pd.DataFrame:
    """Shares of the routed tokens of each group that go to each expert: groups in rows, experts in columns.

    Args:
        use: as `expert_use` gives it. by: "task" or "combination".
        weighted: count a token with its gate, so that rows sum to 1; otherwise as 1 for each of its k experts, so that
            rows sum to k.

    Groups without any token are left out.
    """
    sums = use.groupby([by, "expert"], sort=False)[["tokens", "chosen", "weight"]].sum().reset_index()
    sums = sums[sums["tokens"] > 0]
    shares = sums.assign(share=sums["weight" if weighted else "chosen"] / sums["tokens"])
    order = list(dict.fromkeys(sums[by]))
    return shares.pivot(index=by, columns="expert", values="share").reindex(order)


def distances(shares: pd.DataFrame) -> pd.DataFrame:
    """Jensen-Shannon distances (base 2: 0 for equal, 1 for disjoint) between the rows of `frequencies`."""
    rows: Sequence[np.ndarray] = shares.to_numpy(float)
    values = [[float(jensenshannon(a, b, base=2)) for b in rows] for a in rows]
    return pd.DataFrame(np.nan_to_num(values), index=shares.index, columns=list(shares.index))


def mean_over_seeds(apart: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """Mean of `distances` of several seeds. Frequencies have no such mean: experts of different seeds have nothing in
    common but their number."""
    groups = list(dict.fromkeys(name for frame in apart.values() for name in frame.index))
    aligned = [frame.reindex(index=groups, columns=groups).to_numpy() for frame in apart.values()]
    return pd.DataFrame(np.nanmean(aligned, axis=0), index=groups, columns=groups)
