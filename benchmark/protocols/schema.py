"""What a protocol file may say. Values are checked strictly: a number in quotes or an unknown key is a fault."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from benchmark.suggest import unknown
from benchmark.tasks import TASKS
from models.contract import PositionInit

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """A part of a protocol: nothing unknown in it, and nothing changes it later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DimensionSettings(Section):
    """Sizes that all models share; the fields mean what they mean in `models.contract.Dimensions`."""

    width: Count
    layers: Count
    heads: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]
    hours: Count
    note_tokens: Count
    film: Annotated[int, Field(ge=1, le=256)]
    patch: Count
    position_init: PositionInit = "zeros"

    @model_validator(mode="after")
    def _divisible(self) -> DimensionSettings:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.film % self.patch:
            raise ValueError(f"film side {self.film} is not a multiple of patch side {self.patch}")
        return self


class EpochSettings(Section):
    """Passes over the training samples, for models trained on all tasks together and for models trained on one task."""

    multitask: Count
    singletask: Count


class TrainingSettings(Section):
    """How every model is trained.

    Attributes:
        batch_size, epochs, learning_rate: of Adam.
        halve_learning_rate: halve a task's learning rate when its validation loss did not fall; multitask models only.
        task_weights: weight of each task's loss in multitask training.
        augmentation: of chest films in training.
        redraw_hours: for tasks that predict at one random hour of a stay, draw another hour of each training stay in
            each epoch; validation and test hours are fixed.
        precision: of the products in training steps: "float32", or "bfloat16" where torch's autocast chooses it; what
            decides about accuracy stays in float32, and so does evaluation.
    """

    batch_size: Count
    epochs: EpochSettings
    learning_rate: Positive
    halve_learning_rate: bool
    task_weights: dict[str, Weight]
    augmentation: Literal["none", "mild", "reference"]
    redraw_hours: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"

    @field_validator("task_weights")
    @classmethod
    def _a_weight_for_each_task(cls, weights: dict[str, float]) -> dict[str, float]:
        wrong = [unknown("task", name, TASKS) for name in weights if name not in TASKS]
        missing = [name for name in TASKS if name not in weights]
        if missing:
            wrong.append(f"no weight for {', '.join(missing)}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return weights


class ModelTraining(Section):
    """What differs for one model from the common training settings; None: nothing.

    Attributes:
        epochs: however many tasks it is trained on. halve_learning_rate: holds for single tasks, too.
        dropout: of the shared layers. task_weights, task_rates: of some tasks, for a model trained on several together;
            a rate is a factor on the learning rate.
        study: tuning study that these values come from; it is noted in the results and changes no number.
        note_dropout: 0, or train on notes that the frozen encoder has embedded with its own dropout switched on. So
            many draws of that noise are kept on disk, and the epochs read them in turn; with one draw an epoch, no
            task sees a noise twice. Validation and test read notes without noise.
    """

    learning_rate: Positive | None = None
    epochs: Count | None = None
    halve_learning_rate: bool | None = None
    note_dropout: Annotated[int, Field(ge=0)] = 0
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    task_weights: dict[str, Weight] = Field(default_factory=dict)
    task_rates: dict[str, Positive] = Field(default_factory=dict)
    study: str | None = None

    @field_validator("task_weights", "task_rates")
    @classmethod
    def _of_known_tasks(cls, values: dict[str, float]) -> dict[str, float]:
        if wrong := [unknown("task", name, TASKS) for name in values if name not in TASKS]:
            raise ValueError("; ".join(wrong))
        return values


class CohortSettings(Section):
    """The simulated cohort that is made when no data folder is given."""

    patients: Annotated[int, Field(ge=20)]
    seed: Seed


class Protocol(Section):
    """Everything that two models of a comparison must have in common, and the options of single models.

    Attributes:
        seeds: one training run a seed. note_encoder: name, local folder or hub id of the frozen text encoder.
        note_special_tokens: whether notes are encoded with the two tokens ([CLS], [SEP]) that the encoder knows from
            its training; the released code of FlexCare leaves them out.
        models: options of single models that differ from their defaults, by model name.
        training_of: training settings of single models that differ from `training`, by model name.
    """

    name: Annotated[str, Field(min_length=1)]
    description: str = ""
    dimensions: DimensionSettings
    training: TrainingSettings
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    note_encoder: Annotated[str, Field(min_length=1)]
    note_special_tokens: bool = True
    cohort: CohortSettings
    models: dict[str, dict[str, Any]] = Field(default_factory=dict)
    training_of: dict[str, ModelTraining] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _distinct_seeds(self) -> Protocol:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} repeat a seed")
        return self
