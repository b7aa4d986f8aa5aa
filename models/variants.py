"""FlexCare's entries for the harness: the two models of the main table, the preset of the released code, the ablations
of the paper, and the network that is carried over to a new task.

A variant is FlexCare with other default options. Which part an ablation removes is the paper's; what replaces it is not
published, so it is decided here: nothing more than the part itself is removed, and what has to stand in its place is as
plain as possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from models.contract import Loaded, ModelEntry
from models.dense import dense_flexcare
from models.flexcare import FlexCare, FlexCareConfig, Fused, Mixing, TaskToken
from models.layers import LayerInit
from models.search import COMMON, Choice, LogUniform, SearchSpace, Uniform

FLEXCARE = ModelEntry(
    name="flexcare",
    title="FlexCare",
    config=FlexCareConfig,
    build=FlexCare,
    dense=dense_flexcare,
    paper="Xu et al., FlexCare: Leveraging Cross-Task Synergy for Flexible Multimodal Healthcare Prediction, KDD 2024",
    multitask=True,
    divisible="stages",
    space=SearchSpace({"task_weights": LogUniform(0.05, 2)}),
    wide_space=SearchSpace(
        {"task_rates": LogUniform(0.3, 3), "learning_rate": LogUniform(0.2, 2), "dropout": Uniform(0, 0.3)},
        {"beta": Choice((0.0, 0.1, 0.5, 1.0)), "temperature": LogUniform(0.1, 1), "balance": LogUniform(1e-3, 0.1)},
    ),
)

SINGLE_TASK = replace(
    FLEXCARE,
    name="flexcare-st",
    title="FlexCare-st",
    multitask=False,
    space=COMMON,
    wide_space=SearchSpace(options=FLEXCARE.wide_space.options),
)


# ---------------------------------------------------------------------------------------------- the released code


@dataclass(frozen=True)
class AuthorsCodeConfig(FlexCareConfig):
    """What the released network computes: a mask that is added instead of enforced, equal layers, spare table rows.

    What the release does beyond its network is a matter of training and stands in the protocols, under `training_of`:
    its learning rate and epochs (protocol `paper`), and `note_dropout`, for it runs the frozen note encoder with
    dropout on. It embeds a text anew in every step; here a few draws of that noise are kept, and the epochs take turns.
    Films are augmented and notes are tokenised as those of all other models, which the release does otherwise (by
    turns of up to 45 degrees and mirroring, and without the encoder's special tokens).
    """

    mask_mode: Literal["strict", "additive_one"] = "additive_one"
    layer_init: LayerInit = "cloned"
    task_rows: int = 40
    ehr_rows: int = 600
    cxr_rows: int = 197
    note_rows: int = 600


AUTHORS_CODE = replace(
    FLEXCARE,
    name="flexcare-authors",
    title="FlexCare (released code)",
    config=AuthorsCodeConfig,
    group="preset",
    variant_of="flexcare",
)

PRESETS: dict[str, type[FlexCareConfig]] = {"paper": FlexCareConfig, "authors_code": AuthorsCodeConfig}
"""Complete sets of options by name."""


# ---------------------------------------------------------------------------------------------- ablations (Table 4)


@dataclass(frozen=True)
class NoCombinationsConfig(FlexCareConfig):
    """(a) No combination tokens, so nothing to decorrelate, and no experts.

    The sequence is [task; ehr; cxr; note] under the same mask; the mean output token of each present modality goes
    through one transform and into the fusion.
    """

    fused: Fused = "modalities"
    beta: float = 0.0
    moe: Mixing = "shared"


@dataclass(frozen=True)
class NoDecorrelationNoExpertsConfig(FlexCareConfig):
    """(b) Combination tokens without covariance term; one transform in place of experts and router."""

    beta: float = 0.0
    moe: Mixing = "shared"


@dataclass(frozen=True)
class NoExpertsConfig(FlexCareConfig):
    """(c) Combination tokens and covariance term; one transform in place of experts and router."""

    moe: Mixing = "shared"


@dataclass(frozen=True)
class NoDecorrelationConfig(FlexCareConfig):
    """(d) Combination tokens and experts without covariance term."""

    beta: float = 0.0


@dataclass(frozen=True)
class SharedTaskTokenConfig(FlexCareConfig):
    """Without task token (Table 6), read as: one learned token for all tasks, which tells nothing of the task."""

    task_token: TaskToken = "shared"


@dataclass(frozen=True)
class NoTaskTokenConfig(FlexCareConfig):
    """Without task token (Table 6), read as: no such token in sequence, router, fusion or head."""

    task_token: TaskToken = "none"


def _ablation(name: str, title: str, config: type[FlexCareConfig]) -> ModelEntry:
    return replace(
        FLEXCARE, name=f"flexcare-{name}", title=title, config=config, group="ablation", variant_of="flexcare"
    )


ABLATIONS = (
    _ablation("a", "FlexCare (a)", NoCombinationsConfig),
    _ablation("b", "FlexCare (b)", NoDecorrelationNoExpertsConfig),
    _ablation("c", "FlexCare (c)", NoExpertsConfig),
    _ablation("d", "FlexCare (d)", NoDecorrelationConfig),
    _ablation("no-task-token", "FlexCare w/o task token", SharedTaskTokenConfig),
    _ablation("no-task-token-drop", "FlexCare w/o task token (dropped)", NoTaskTokenConfig),
)


# ---------------------------------------------------------------------------------------------- a new task (Table 5)


@dataclass(frozen=True)
class PretrainedConfig(FlexCareConfig):
    """FlexCare that starts from a network trained on other tasks.

    Attributes:
        freeze_encoder: keep embeddings and encoder layers as loaded; what follows them, the combination tokens and the
            new task are trained.
    """

    freeze_encoder: bool = False


def load_pretrained(model: nn.Module, state: Mapping[str, Tensor]) -> Loaded:
    """Copies a trained FlexCare into one for other tasks: everything but the rows of single tasks and the heads.

    These keep the values that `model` was built with. If the model's option `freeze_encoder` is set, embeddings and
    encoder are no longer trained.

    Raises:
        ValueError: the state is not of a FlexCare with the same sizes and parts; nothing is loaded then.
    """
    own = model.state_dict()
    shared = model.config.task_token == "shared"
    new = tuple(name for name in own if _of_a_task(name, shared))
    wanted = tuple(name for name in own if name not in new)
    faults = [f"no {name}" for name in wanted if name not in state]
    faults += [f"{name}, which it lacks" for name in state if name not in own and not _of_a_task(name, shared)]
    faults += [
        f"{name} of shape {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != own[name].shape
    ]
    if faults:
        more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ValueError(f"a pretrained state does not fit the model; it has {'; '.join(faults[:5])}{more}")
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(state[name])
    if getattr(model.config, "freeze_encoder", False):
        model.embeddings.requires_grad_(False)
        model.encoder.requires_grad_(False)
    return Loaded(wanted, new)


def _of_a_task(name: str, shared: bool) -> bool:
    """Whether a part belongs to a task; `shared`: there is one task token for all."""
    return (name == "tasks" and not shared) or name.startswith("heads.")


PRETRAINED = replace(
    SINGLE_TASK,
    name="flexcare-pretrained",
    title="FlexCare_pretrain",
    config=PretrainedConfig,
    group="extension",
    variant_of="flexcare",
    pretrained_on="flexcare",
    load_pretrained=load_pretrained,
)

ENTRIES = (SINGLE_TASK, FLEXCARE, AUTHORS_CODE, *ABLATIONS, PRETRAINED)
"""In the order of the tables' columns."""
