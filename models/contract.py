"""What a model receives, what it returns, and how it makes itself known.

Legend of axis letters used in `models/` and `baselines/`:

    B  samples of the batch            n  samples of the batch that own a modality (n <= B)
    N  tokens of all n samples         L  tokens of one sample
    F  input features of a token       D  width of the model
    M  modalities, always 3            C  classes (or labels) of the task
    R  rows routed to experts          E  experts

Samples that lack a modality take no part in it: sequences are kept **packed**, the tokens of one sample after those of
another, without padding and without filler for the absent. `present` is the only source of truth about absence. Where
shapes must not change from batch to batch, the same tokens lie in slots of fixed room (`models/layout.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from models.checks import check_choice, check_count, check_rate
from models.layout import NO_BOUNDS, Bounds, Layout, Packed, Slots
from models.search import COMMON, SearchSpace

__all__ = [
    "Batch",
    "Bounds",
    "Dimensions",
    "Divisible",
    "Estimator",
    "Films",
    "FixedShapes",
    "Head",
    "Layout",
    "Loaded",
    "MODALITIES",
    "ModelEntry",
    "Output",
    "Packed",
    "Readout",
    "Slots",
    "Staged",
    "Supported",
    "count_parameters",
]

MODALITIES = ("ehr", "cxr", "note")
"""Order of the modality axis everywhere: ICU time series, chest film, note text."""

Kind = Literal["binary", "multilabel", "multiclass"]
PositionInit = Literal["zeros", "normal"]
Divisible = Literal["samples", "stages", "no"]
Group = Literal["table3", "ablation", "reference", "preset", "extension"]


@dataclass(frozen=True)
class Films:
    """Chest films of the samples that own one: `pixels` (n, H, W), grey values in [0, 1].

    `rows` (n,) says whose they are, as in `Layout`; for a fixed batch as in `Slots`, and then `joint` is as there too.
    """

    pixels: Tensor
    rows: tuple[int, ...] | Tensor
    joint: Bounds = NO_BOUNDS


@dataclass(frozen=True)
class Batch:
    """Inputs of B samples of one task. A modality that nobody in the batch owns is None.

    Attributes:
        ehr: hourly ICU series, F = 76 (59 value columns, 17 observed-flags), standardised.
        cxr: chest films.
        note: token embeddings of the frozen note encoder, F = width of that encoder.
        present: (B, M) bool; at least one modality per sample.
        task: position of the batch's task among the heads that the model was built with.
        sample: (B,) int64, the data set's sample numbers; for audits, never for prediction.
    """

    ehr: Packed | None
    cxr: Films | None
    note: Packed | None
    present: Tensor
    task: int
    sample: Tensor

    @property
    def size(self) -> int:
        return self.present.shape[0]

    @property
    def device(self) -> torch.device:
        return self.present.device


@dataclass(frozen=True)
class Readout:
    """Logits of one further prediction that is trained beside the final one.

    Attributes:
        logits: (n, C).
        rows: (n,) int64, the batch rows that the logits belong to.
        weight: (n,) weight of each row's loss.
    """

    logits: Tensor
    rows: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Output:
    """What a model returns for a batch.

    Attributes:
        logits: (B, C_task), never probabilities.
        aux: unweighted auxiliary losses (scalars) by name, empty in eval mode; the module's attribute
        `aux_weights` says how each counts (see `ModelEntry`).
        readouts: if not empty, the prediction loss is the weighted sum over these instead of the loss of `logits`.
        diagnostics: detached tensors for analyses, e.g. patient vector, gates, fusion weights. Scalars in eval mode are
        averaged over the test batches and kept with the run.
    """

    logits: Tensor
    aux: Mapping[str, Tensor] = field(default_factory=dict)
    readouts: tuple[Readout, ...] = ()
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Head:
    """What a model has to know of a task: number of logits, kind of label, and the modality its samples always own."""

    classes: int
    kind: Kind
    primary: str

    def __post_init__(self) -> None:
        if self.primary not in MODALITIES:
            raise ValueError(f"primary modality {self.primary!r}; allowed are {', '.join(MODALITIES)}")
        if self.classes < 1:
            raise ValueError(f"{self.classes} classes; a head needs at least one")


@dataclass(frozen=True)
class Dimensions:
    """Sizes that all models of a comparison share; defaults are those of FlexCare.

    Attributes:
        width: D. layers, heads: of the transformer encoders. dropout: inside their layers.
        series_features: columns of the hourly array. hours: longest series (the last hours are kept).
        note_features: width of the note encoder. note_tokens: longest note.
        film: side of the film in pixels. patch: side of a patch.
        position_init: initial values of the positional tables; "zeros" as in FlexCare's code, or "normal" of
            deviation 0.02.
    """

    width: int = 128
    layers: int = 4
    heads: int = 2
    dropout: float = 0.1
    series_features: int = 76
    hours: int = 512
    note_features: int = 768
    note_tokens: int = 512
    film: int = 224
    patch: int = 16
    position_init: PositionInit = "zeros"

    def __post_init__(self) -> None:
        for size in fields(self):
            if size.name not in ("dropout", "position_init"):
                check_count(size.name, getattr(self, size.name), 1)
        check_rate("dropout", self.dropout)
        check_choice("position_init", self.position_init, get_args(PositionInit))
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.film % self.patch:
            raise ValueError(f"film side {self.film} is not a multiple of patch side {self.patch}")


@runtime_checkable
class Staged(Protocol):
    """A module whose training has stages."""

    def begin_epoch(self, epoch: int) -> bool:
        """Called before each epoch, counted from 1; False bars the epoch's state from being the one that is kept."""


@runtime_checkable
class Supported(Protocol):
    """A module that compares what it predicts with a fixed set of training samples.

    Attributes:
        support_samples: how many it wants to be given; 0 for none.
    """

    support_samples: int

    def remember(self, batch: Batch) -> None:
        """Takes the set, in eval mode after every epoch; what is kept of it belongs to the module's state."""


class FixedShapes(Protocol):
    """A module that takes batches in their fixed form too (`Slots`), and says so.

    Its forward pass does the same operations in every step, on tensors of shapes that follow from those of the batch,
    and reads nothing back from the device; filler changes neither results nor statistics nor gradients. Random numbers
    come through `models/noise.py`. Such a module can be trained by recorded steps; any other is given packed batches.

    Attributes:
        fixed_shapes: True; counted as False where a module has no such attribute.
        vmappable: whether `torch.vmap` can run several seeds of it at once; counted as True where it has no such
            attribute. If not, seeds that share a step run one after another.
    """

    fixed_shapes: bool
    vmappable: bool


class Estimator(Protocol):
    """A module that is fitted in one go, in stages that are prefixes of one another, such as rounds of boosting."""

    def fit(self, training: Iterable[tuple[Batch, Tensor, Tensor]], seed: int) -> None:
        """Fits on all training samples: batches with labels and which of them are known, both of shape (B, C), or (B,)
        for classes."""

    def stages(self, batches: Iterable[Batch]) -> Iterator[Tensor]:
        """Logits (n, C) of all samples of the batches, after each stage."""

    def keep(self, stages: int) -> None:
        """Drops all but the first stages."""


@dataclass(frozen=True)
class Loaded:
    """What a module took from another's state: names of its entries that were loaded, and of those that are new."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True)
class ModelEntry:
    """A model as the harness knows it. Third parties add theirs through the entry-point group `benchmark.models`.

    The module that `build` makes maps a `Batch` to an `Output`. If it returns auxiliary losses, its attribute
    `aux_weights` (dict of name to float) gives the weight of each; a module without such losses needs no attribute.
    A module may also be `Staged`, `Supported` or of `FixedShapes`; one of an entry with `fits` is an `Estimator`. One
    that refuses samples without some modality names it in its attribute `requires` (tuple of str).

    Attributes:
        name: as typed on the command line. title: as printed in tables.
        config: frozen dataclass of the model's own options, all with defaults.
        build: makes the module from shared dimensions, the heads of its tasks and its options. Random initial values
            come from torch's current generator; the caller seeds it.
        dense: as `build`, for the model's dense form: a module of the same state and the same results that pads its
            batches as most published code does (`models/dense.py`), a yardstick of speed; None: there is none.
        multitask: True: one module is trained on all tasks; False: one module a task.
        paper: citation. clip_norm: bound on the gradient norm in training, if the model asks for one.
        couples_samples: True if an eval-mode output depends on the other samples of its batch; an attribute of that
            name of the module counts instead, where its options decide.
        divisible: how a batch that does not fit into memory is computed in parts. "samples": in training too, loss and
            gradient of a batch are the sums of its samples' shares, auxiliary losses being means over samples, so that
            parts can be trained on one after another; "stages": samples meet, but the module calls its large stages
            through `models.parts.samplewise`; "no": not at all.
        fits: True if the module is fitted in one go instead of trained by gradient.
        reads: modalities that can change its predictions.
        group: which comparison it belongs to: "table3" (the paper's main table), "ablation", "reference" (simple models
            that put the others into proportion), "preset" (another reading of a model of the main table) or "extension"
            (for tasks outside the main table).
        variant_of: name of the model that an ablation is a variant of.
        pretrained_on: name of a multitask model; the harness trains it on the tasks of the main table with the same
            seed first and gives its state to `load_pretrained`, which copies what fits into a new module and raises
            ValueError if the state is not of the kind that it knows.
        space: what is searched when the model is tuned. wide_space: what may be searched besides.
    """

    name: str
    title: str
    config: type[Any]
    build: Callable[[Dimensions, Sequence[Head], Any], nn.Module]
    paper: str
    dense: Callable[[Dimensions, Sequence[Head], Any], nn.Module] | None = None
    multitask: bool = False
    clip_norm: float | None = None
    couples_samples: bool = False
    divisible: Divisible = "no"
    fits: bool = False
    reads: tuple[str, ...] = MODALITIES
    group: Group = "table3"
    variant_of: str | None = None
    pretrained_on: str | None = None
    load_pretrained: Callable[[nn.Module, Mapping[str, Tensor]], Loaded] | None = None
    space: SearchSpace = COMMON
    wide_space: SearchSpace = field(default_factory=SearchSpace)

    def __post_init__(self) -> None:
        check_choice("divisible", self.divisible, get_args(Divisible))


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
