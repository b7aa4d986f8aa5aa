"""A whole training step from the disk, done anew as the released code does it, against the same step here.

**Anew**: every step reads a CSV file for each stay and discretises it, decodes a JPEG file for each film, runs the
frozen note encoder on the batch's notes, padded to the longest, and takes one dense step.
**Here**: rows are gathered from memory-mapped stores, where series, films and note embeddings were put once, and the
step is packed.

The files are made up. The note encoder has the size of BERT-base (12 layers of width 768, as BioBERT) and random
values, which cost the same as trained ones; embeddings in the store are random as well, of the same shape.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from benchmark.data.augmentation import crop
from benchmark.data.batches import BatchSource, LabelledBatch, Labels
from benchmark.data.channels import CHANNELS, NORMAL_VALUES
from benchmark.data.dataset import PreparedData
from benchmark.data.discretiser import discretise
from benchmark.data.films import SIDE, decode
from benchmark.data.fingerprint import FORMAT
from benchmark.data.standardiser import Standardiser
from benchmark.data.stores import RaggedWriter
from benchmark.random import stream
from benchmark.throughput.clock import Spread, alternating
from benchmark.throughput.forms import Subject, make_runner
from models.contract import MODALITIES, Batch, Films, Layout, Packed

LAYERS = 12
"""Of BERT-base; its width is that of the notes' embeddings."""

_WORDS, _ENCODER = 28_996, "random"
_PICTURE = (622, 512)
"""Height and width of a film as the released code stores it."""


@dataclass(frozen=True)
class EndToEnd:
    """Seconds of each round: of the whole step anew and here, and of the note encoder's part of the former."""

    model: str
    title: str
    task: str
    batch_size: int
    threads: int
    anew: tuple[float, ...]
    here: tuple[float, ...]
    encoder: tuple[float, ...]

    @property
    def ratio(self) -> Spread:
        return Spread.of([a / b for a, b in zip(self.anew, self.here, strict=True)])


def measure_end_to_end(
    subject: Subject, batch_size: int, rounds: int, layers: int = LAYERS, words: int = _WORDS
) -> EndToEnd | str:
    """Makes the files, measures and deletes them; the reason if the model has no dense form.

    Args:
        layers, words: of the note encoder.
    """
    with tempfile.TemporaryDirectory(prefix="end-to-end-") as place:
        files = _Files(Path(place), subject, batch_size, rounds + 1)
        files.write(words)
        anew = _Anew(files, layers, words)
        if isinstance(anew.runner, str):
            return anew.runner
        here = _Here(files)
        works = {"anew": anew.step, "here": here.step, "encoder": anew.encode}

        def round_of(number: int) -> dict[str, Callable[[], object]]:
            return {name: lambda work=work: work(number) for name, work in works.items()}

        times = alternating(rounds, round_of, subject.device)
    names = (subject.entry.name, subject.entry.title, subject.mix.task.name, batch_size, torch.get_num_threads())
    return EndToEnd(*names, *(tuple(times[name]) for name in works))


class _Files:
    """Files of made-up samples: one CSV a stay, one JPEG a film, token numbers of notes, and the stores of all."""

    def __init__(self, place: Path, subject: Subject, batch_size: int, batches: int) -> None:
        self.place, self.subject, self.size = place, subject, batch_size
        self.lengths = subject.mix.lengths(subject.dimensions, batch_size * batches, subject.seed)  # (n, M)
        self.present = self.lengths > 0
        labels = [subject.batch(batch_size, number).labels for number in range(batches)]
        self.y = torch.cat([each.y for each in labels]).cpu()
        self.known = torch.cat([each.known for each in labels]).cpu()
        self.standardiser = Standardiser.of_mimic3()

    def rows(self, number: int) -> np.ndarray:
        return np.arange(number * self.size, (number + 1) * self.size)

    def labels(self, chosen: np.ndarray) -> Labels:
        device = self.subject.device
        return Labels(self.y[chosen].to(device), self.known[chosen].to(device))

    def write(self, words: int) -> None:
        rng, d = stream(self.subject.seed, "end to end"), self.subject.dimensions
        series = RaggedWriter(self.place / "series", self.lengths[:, 0], d.series_features)
        notes = RaggedWriter(self.place / "notes" / "embeddings" / _ENCODER, self.lengths[:, 2], d.note_features)
        films = np.zeros((int(self.present[:, 1].sum()), SIDE, SIDE), np.uint8)
        self.film = np.where(self.present[:, 1], np.cumsum(self.present[:, 1]) - 1, -1)
        self.ids = [rng.integers(1, words, length) for length in self.lengths[:, 2]]
        for row, (hours, _, tokens) in enumerate(self.lengths):
            if hours:
                _write_stay(self.place / f"{row}.csv", hours, rng)
                series.write(row, self.read_stay(row).astype(np.float16))
            if self.present[row, 1]:
                _write_film(self.place / f"{row}.jpg", rng)
                films[self.film[row]] = decode(self.place / f"{row}.jpg")
            notes.write(row, rng.standard_normal((tokens, d.note_features)).astype(np.float16))
        series.close()
        notes.close()
        (self.place / "films").mkdir()
        np.save(self.place / "films" / "pixels.npy", films)
        np.save(self.place / "series" / "tails.npy", np.zeros((0, d.series_features), np.float16))
        self._write_samples()

    def _write_samples(self) -> None:
        task, n = self.subject.mix.task, len(self.lengths)
        rows = np.arange(n)
        frame = pd.DataFrame(
            {"sample": rows, "patient": rows, "split": "train", "hours": self.lengths[:, 0], "tail": -1}
        )
        frame["series"], frame["film"] = np.where(self.present[:, 0], rows, -1), self.film
        frame["note"] = np.where(self.present[:, 2], rows, -1)
        y = torch.where(self.known, self.y.double(), torch.nan).reshape(n, -1).numpy()
        frame = frame.assign(**{f"y{c}": y[:, c] for c in range(y.shape[1])})
        (self.place / "samples").mkdir()
        frame.to_parquet(self.place / "samples" / f"{task.name}.parquet", index=False)
        entry = {"classes": list(task.classes or ("",)), "samples": {"train": n}}
        manifest = {
            "format": FORMAT,
            "name": "made up",
            "simulated": True,
            "fingerprint": "",
            "tasks": {task.name: entry},
        }
        (self.place / "manifest.json").write_text(json.dumps(manifest))

    def read_stay(self, row: int) -> np.ndarray:
        """(T, 76) standardised hours of a stay, from its file."""
        hour, channel, value = [], [], []
        with (self.place / f"{row}.csv").open(newline="") as file:
            lines = csv.reader(file)
            next(lines)
            for time, *cells in lines:
                for number, cell in enumerate(cells):
                    if cell:
                        hour.append(float(time))
                        channel.append(number)
                        value.append(float(cell))
        end = float(self.lengths[row, 0])
        return self.standardiser.apply(discretise(np.array(hour), np.array(channel), np.array(value), end))


class _Anew:
    """The step of the released code."""

    def __init__(self, files: _Files, layers: int, words: int) -> None:
        from transformers import BertConfig, BertModel

        self.files, subject = files, files.subject
        self.runner = make_runner(subject, "dense", torch.float32, files.size, 1)
        width = subject.dimensions.note_features
        heads = 12 if width % 12 == 0 else 1
        config = BertConfig(
            vocab_size=words,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
        )
        self.encoder = BertModel(config, add_pooling_layer=False).eval().requires_grad_(False).to(subject.device)

    def encode(self, number: int) -> torch.Tensor | None:
        """(tokens, width) embeddings of a batch's notes, end to end."""
        ids = [self.files.ids[row] for row in self.files.rows(number) if len(self.files.ids[row])]
        if not ids:
            return None
        lengths = torch.tensor([len(each) for each in ids])
        real = torch.arange(int(lengths.max())) < lengths[:, None]
        padded = torch.zeros(real.shape, dtype=torch.int64)
        padded[real] = torch.from_numpy(np.concatenate(ids))
        real, padded = real.to(self.files.subject.device), padded.to(self.files.subject.device)
        with torch.no_grad():
            return self.encoder(input_ids=padded, attention_mask=real.long()).last_hidden_state[real]

    def step(self, number: int) -> None:
        files, d = self.files, self.files.subject.dimensions
        rows, device = files.rows(number), files.subject.device
        owners = [tuple(np.flatnonzero(files.present[rows, m]).tolist()) for m in range(len(MODALITIES))]
        series = [files.read_stay(rows[place]) for place in owners[0]]
        films = [decode(files.place / f"{rows[place]}.jpg") for place in owners[1]]
        notes = self.encode(number)
        ehr = torch.from_numpy(np.concatenate(series)).float().to(device) if series else None
        pixels = crop(torch.from_numpy(np.stack(films)).to(device), d.film) if films else None
        inputs = Batch(
            ehr=None if ehr is None else Packed(ehr, Layout(tuple(map(len, series)), owners[0])),
            cxr=None if pixels is None else Films(pixels, owners[1]),
            note=None if notes is None else Packed(notes, Layout(_of(files.lengths[rows, 2]), owners[2])),
            present=torch.from_numpy(files.present[rows]).to(device),
            task=files.subject.position,
            sample=torch.from_numpy(rows).to(device),
        )
        self.runner.train(LabelledBatch(inputs, files.labels(rows)))


class _Here:
    """The step of this project."""

    def __init__(self, files: _Files) -> None:
        subject = files.subject
        self.files, self.runner = files, make_runner(subject, "packed", torch.float32, files.size, 1)
        data = PreparedData.open(files.place)
        task = data.task(subject.mix.task.name, ("train",))
        self.source = BatchSource(data, task, "train", subject.dimensions, _ENCODER, subject.position, subject.device)

    def step(self, number: int) -> None:
        self.runner.train(self.source.batch(self.files.rows(number)))


def _of(lengths: np.ndarray) -> tuple[int, ...]:
    return tuple(lengths[lengths > 0].tolist())


def _write_stay(path: Path, hours: int, rng: np.random.Generator) -> None:
    """One line an hour with about two thirds of the channels."""
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["Hours", *(channel.name for channel in CHANNELS)])
        for hour in range(hours):
            seen = rng.random(len(CHANNELS)) < 2 / 3
            out.writerow([hour + 0.5, *(f"{v:g}" if s else "" for v, s in zip(NORMAL_VALUES, seen, strict=True))])


def _write_film(path: Path, rng: np.random.Generator) -> None:
    """Soft shades with grain, whose JPEG is about as large as a film's."""
    coarse = Image.fromarray(rng.integers(40, 220, (8, 8), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(_PICTURE[::-1], Image.Resampling.BICUBIC), np.int16)
    pixels = np.clip(smooth + rng.integers(-4, 5, smooth.shape), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, "JPEG", quality=85)
