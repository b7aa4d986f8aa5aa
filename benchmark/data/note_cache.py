"""Token embeddings of all texts of a data set, computed once by the frozen note encoder and kept on disk.

`DATA/notes/embeddings/<key>/` holds one sequence a row of `DATA/notes/texts.parquet`: the last hidden state of every
token as float16. The key depends on the encoder's files, the tokenizer settings and the token limit alone; a table
beside the sequences has the digest of each row's text and a checksum of its embeddings. Equal texts are encoded once,
texts that come later are added, and rows whose bytes do not agree with their checksum are encoded anew.

Each chunk of work goes straight to its place in an unfinished store beside the final one, then a mark with checksums
says that it is there: an interrupted run goes on where it stopped. The disk never holds embeddings twice, except those
that an earlier store has already when texts are added.

Embeddings with the noise of the encoder's own dropout lie in `DATA/notes/embeddings_with_dropout/<key>/<draw>/` in the
same way, one store a draw, for the texts of training samples only; nothing but training reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.data.dataset import embeddings_folder
from benchmark.data.encoder_source import EncoderSource, resolve
from benchmark.data.note_encoder import FORMAT, Progress, encode, encoder_key, give_back, load_model, tokenise
from benchmark.data.note_noise import TextNoise, text_keys
from benchmark.data.stores import RaggedStore, RaggedWriter, new_folder
from benchmark.errors import UserError
from benchmark.locks import holding

_MARKS, _ROWS, _ABOUT = "done", "rows.parquet", "encoder.json"
_CHUNK_TOKENS = 65_536
_BATCH_TOKENS = {"cpu": 4_096, "cuda": 65_536}
_NOISY_SHARE = 8  # batches are smaller by this factor where every attention weight has a random number


@dataclass(frozen=True)
class EncoderInfo:
    """A note encoder whose embeddings are ready: `key` names their folder, `name` is printed, `width` is per token."""

    key: str
    name: str
    width: int


@dataclass(frozen=True)
class _Finished:
    """A store that an earlier call has finished.

    Attributes:
        about: what `encoder.json` says. rows: digest ("" where the row has no embeddings), check, cut.
    """

    folder: Path
    about: dict[str, Any]
    rows: pd.DataFrame
    store: RaggedStore

    @classmethod
    def open(cls, folder: Path) -> _Finished | None:
        """None if there is no such store, or one that is not whole."""
        try:
            about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            rows, store = pd.read_parquet(folder / _ROWS), RaggedStore.open(folder)
        except (OSError, ValueError, UserError):  # pyarrow's errors are of the first two kinds
            return None
        return cls(folder, about, rows, store) if len(rows) == len(store) else None

    def covers(self, texts: pd.DataFrame, sections: set[str]) -> bool:
        """Whether all texts of the sections are in their rows, with embeddings as they were written."""
        wanted = texts["section"].isin(sections).to_numpy()
        if len(texts) != len(self.rows) or (self.rows.digest[wanted] != texts.digest[wanted]).any():
            return False
        # Reading all embeddings takes minutes where there are many, so it is done when the file was touched.
        if self.about.get("stamp") == _stamp(self.folder):
            return True
        if not self.sound().all():
            return False
        with suppress(OSError):  # a read-only data set is checked every time
            _describe(self.folder, self.about | {"stamp": _stamp(self.folder)})
        return True

    def sound(self) -> np.ndarray:
        """(rows,) whether the embeddings agree with their checksums."""
        return np.array([_check(self.store[row]) == check for row, check in enumerate(self.rows.check)], dtype=bool)


def ensure_embeddings(
    data_dir: Path,
    spec: str,
    sections: set[str],
    max_tokens: int,
    device: str,
    progress: Progress | None = None,
    special_tokens: bool = True,
    draw: int | None = None,
) -> EncoderInfo:
    """Makes sure that the embeddings of all texts of `sections` exist; encodes what is not there yet.

    Args:
        data_dir: a prepared data set. spec: see `resolve`. sections: e.g. {"pmh"}.
        max_tokens: longer texts are cut on the right; [CLS] and [SEP] count.
        device: where the encoder runs. progress: called with (what, done, total).
        special_tokens: whether [CLS] and [SEP] are added.
        draw: number of a draw of the encoder's own dropout, for the texts of training samples alone; None: no dropout.
    """
    source = resolve(spec)
    least = 3 if special_tokens else 1
    if not least <= max_tokens <= source.positions:
        raise UserError(f"max_tokens {max_tokens}; {source.name} allows {least} to {source.positions}")
    info = EncoderInfo(encoder_key(source, max_tokens, special_tokens), source.name, source.width)
    target = embeddings_folder(Path(data_dir), info.key, draw)
    texts = pd.read_parquet(Path(data_dir) / "notes" / "texts.parquet", columns=["section", "text", "digest"])
    if draw is not None:
        texts["section"] = texts["section"].where(_of_training(Path(data_dir), len(texts)))
    replaced = target.with_name(f".replaced-{target.name}")
    if _covering(target, texts, sections) and not replaced.exists():
        return info
    with holding(target.with_name(f".lock-{target.name}"), wait=True):
        if not target.exists() and replaced.exists():  # an earlier call was killed between two renames
            replaced.rename(target)
        if not _covering(target, texts, sections):  # otherwise another process has just made it
            settings = {"max_tokens": max_tokens, "special_tokens": special_tokens}
            extension = _Extension(target, source, info, settings, texts, device, progress or (lambda *_: None), draw)
            extension.run(sections, _Finished.open(target))
        shutil.rmtree(replaced, ignore_errors=True)
    return info


def _covering(folder: Path, texts: pd.DataFrame, sections: set[str]) -> bool:
    found = _Finished.open(folder)
    return found is not None and found.covers(texts, sections)


def _of_training(data_dir: Path, texts: int) -> np.ndarray:
    """(texts,) whether a training sample of any task has the text."""
    found = np.zeros(texts, dtype=bool)
    for file in (data_dir / "samples").glob("*.parquet"):
        samples = pd.read_parquet(file, columns=["split", "note"])
        found[samples["note"][(samples["split"] == "train") & (samples["note"] >= 0)]] = True
    return found


@dataclass(frozen=True)
class _Extension:
    """Writes the store at `target` with further texts; those without a section are never wanted."""

    target: Path
    source: EncoderSource
    info: EncoderInfo
    settings: dict[str, Any]
    texts: pd.DataFrame
    device: str
    progress: Progress
    draw: int | None

    def run(self, sections: set[str], earlier: _Finished | None) -> None:
        """Write a store with `sections`, with those of the earlier store, and with what is sound in that."""
        wanted = sections | set(earlier.about["sections"] if earlier else ())
        chosen = self.texts[self.texts["section"].isin(wanted)]
        known = self._known(earlier, set(chosen["digest"]))
        fresh = chosen[~chosen["digest"].isin(known)].drop_duplicates("digest").set_index("digest")["text"]
        ids, cut = self._tokens(fresh)
        lengths = {digest: len(earlier.store[row]) for digest, row in known.items()}
        lengths |= {digest: len(tokens) for digest, tokens in ids.items()}
        cut |= {digest: bool(earlier.rows.cut.iat[row]) for digest, row in known.items()}

        per_row = np.zeros(len(self.texts), dtype=np.int64)
        per_row[chosen.index] = [lengths[digest] for digest in chosen["digest"]]
        rows = {digest: own.tolist() for digest, own in chosen.groupby("digest").groups.items()}
        partial = self._begun(sorted(wanted), per_row)
        writer = RaggedWriter.reopen(partial)
        checks = {}
        for digest, row in known.items():
            checks |= _stored(writer, rows, {digest: earlier.store[row]})
        checks |= self._encoded(ids, writer, rows, partial)
        writer.close()

        table = pd.DataFrame({"digest": "", "check": np.uint32(0), "cut": False}, index=self.texts.index)
        table.loc[chosen.index, "digest"] = chosen["digest"]
        table["check"] = table["digest"].map(checks).fillna(_check(np.empty(0))).astype("uint32")
        table["cut"] = table["digest"].map(cut).fillna(False).astype(bool)
        table.to_parquet(partial / _ROWS, index=False)
        _describe(partial, self._about(sorted(wanted), table, per_row) | {"stamp": _stamp(partial)})
        self._take_name(partial)

    def _about(self, sections: list[str], table: pd.DataFrame, per_row: np.ndarray) -> dict[str, Any]:
        counts = {}
        for section in sections:
            own = (self.texts["section"] == section).to_numpy()
            cut = int(table.cut[own].sum())
            counts[section] = {"texts": int(own.sum()), "truncated": cut, "tokens": int(per_row[own].sum())}
        about = asdict(self.info) | {"kind": self.source.kind} | self.settings
        about |= {} if self.draw is None else {"draw": self.draw}
        return about | {"format": FORMAT, "sections": sections, "counts": counts}

    def _known(self, earlier: _Finished | None, digests: set[str]) -> dict[str, int]:
        """A row of the earlier store for each digest that has sound embeddings there."""
        if earlier is None:
            return {}
        usable = earlier.rows[earlier.rows.digest.isin(digests) & earlier.sound()]
        return {digest: int(row) for row, digest in usable.digest.drop_duplicates().items()}

    def _tokens(self, fresh: pd.Series) -> tuple[dict[str, np.ndarray], dict[str, bool]]:
        """Token numbers of the texts, and whether they were cut; by digest. They stay on disk until all is done."""
        content = hashlib.sha256("\n".join(fresh.index).encode()).hexdigest()[:16]
        folder = self.target.with_name(f".tokens-{self.target.name}-{content}")
        if not (folder.exists() or fresh.empty):
            tokens = tokenise(self.source, fresh.tolist(), **self.settings, progress=self.progress)
            with new_folder(folder) as new:
                writer = RaggedWriter(new, [len(ids) for ids in tokens.ids], 1, np.int32)
                for row, ids in enumerate(tokens.ids):
                    writer.write(row, ids[:, None])
                writer.close()
                np.save(new / "cut.npy", tokens.cut)
        if fresh.empty:
            return {}, {}
        store, cut = RaggedStore.open(folder), np.load(folder / "cut.npy")
        ids = {digest: store[row][:, 0] for row, digest in enumerate(fresh.index)}
        return ids, dict(zip(fresh.index, cut.tolist(), strict=True))

    def _begun(self, sections: list[str], per_row: np.ndarray) -> Path:
        """The unfinished store of these sections and texts; begun if there is none.

        Raises:
            UserError: the disk has no room for it.
        """
        content = hashlib.sha256(json.dumps(sections).encode() + per_row.tobytes()).hexdigest()[:16]
        partial = self.target.with_name(f".partial-{self.target.name}-{content}")
        self.target.parent.mkdir(parents=True, exist_ok=True)
        needed = int(per_row.sum()) * self.info.width * np.dtype(np.float16).itemsize
        values = partial / "values.npy"
        written = values.stat().st_blocks * 512 if values.exists() else 0
        free = shutil.disk_usage(self.target.parent).free
        if needed - written > free:
            raise UserError(
                f"the note embeddings need {(needed - written) / 1e9:,.1f} GB more in {self.target.parent}; "
                f"{free / 1e9:,.1f} GB are free"
            )
        if not partial.exists():
            with new_folder(partial) as folder:
                RaggedWriter(folder, per_row, self.info.width).close()
                (folder / _MARKS).mkdir()
        return partial

    def _encoded(
        self, ids: dict[str, np.ndarray], writer: RaggedWriter, rows: dict[str, list[int]], partial: Path
    ) -> dict[str, int]:
        """Encodes texts chunk by chunk into their rows of the store, but for chunks whose marks hold true.

        Args:
            ids: token numbers by digest. rows: rows of the store by digest.

        Returns:
            Checksums by digest.
        """
        lengths = {digest: len(tokens) for digest, tokens in ids.items()}
        ordered = sorted((digest for digest in ids if lengths[digest]), key=lambda digest: (lengths[digest], digest))
        batch_tokens = _BATCH_TOKENS.get(self.device.split(":")[0], _BATCH_TOKENS["cpu"])
        what, noisy = "note embeddings", self.draw is not None
        if noisy:
            what, batch_tokens = f"{what} with dropout, draw {self.draw + 1}", batch_tokens // _NOISY_SHARE
        model: Any = None
        checks: dict[str, int] = {}
        self.progress(what, 0, len(ordered))
        for chunk in _grouped(ordered, lengths, _CHUNK_TOKENS):
            mark = partial / _MARKS / hashlib.sha256("\n".join(chunk).encode()).hexdigest()[:32]
            done = _marked(mark, chunk, writer, rows)
            if not done:
                model = model or load_model(self.source, self.device, noisy)
                for batch in _grouped(chunk, lengths, batch_tokens):
                    values = encode([ids[digest] for digest in batch], model, self.device, self._noise(batch))
                    parts = np.split(values, np.cumsum([lengths[digest] for digest in batch])[:-1])
                    done |= _stored(writer, rows, dict(zip(batch, parts, strict=True)))
                writer.close()
                _write(mark, json.dumps(list(done.values())))
            checks |= done
            self.progress(what, len(checks), len(ordered))
        del model
        give_back(self.device)  # the jobs that come next may run in processes of their own
        return checks

    def _noise(self, batch: list[str]) -> TextNoise | None:
        if self.draw is None:
            return None
        return TextNoise(text_keys(self.info.key, self.draw, batch), self.source.positions, self.device)

    def _take_name(self, partial: Path) -> None:
        """In this order a kill at any point costs no embeddings."""
        if self.target.exists():
            self.target.rename(self.target.with_name(f".replaced-{self.target.name}"))
        partial.rename(self.target)
        shutil.rmtree(self.target / _MARKS)
        for pattern in (
            f"{start}{kind}-{self.target.name}-*" for kind in ("partial", "tokens") for start in (".", "..")
        ):
            for left in self.target.parent.glob(pattern):
                shutil.rmtree(left, ignore_errors=True)


def _stored(writer: RaggedWriter, rows: dict[str, list[int]], values: dict[str, np.ndarray]) -> dict[str, int]:
    """Write embeddings to all rows of their texts; their checksums by digest."""
    for digest, part in values.items():
        for row in rows[digest]:
            writer.write(row, part)
    return {digest: _check(part) for digest, part in values.items()}


def _marked(mark: Path, chunk: list[str], writer: RaggedWriter, rows: dict[str, list[int]]) -> dict[str, int]:
    """Checksums of a chunk by digest if it is marked as done and its bytes are as they were; otherwise nothing."""
    try:
        done = dict(zip(chunk, json.loads(mark.read_text(encoding="utf-8")), strict=True))
    except (FileNotFoundError, ValueError, TypeError):
        return {}
    whole = all(_check(writer.read(row)) == done[digest] for digest in chunk for row in rows[digest])
    return done if whole else {}


def _grouped(digests: Iterable[str], lengths: dict[str, int], budget: int) -> list[list[str]]:
    """Consecutive groups of texts, sorted by length, of at most `budget` tokens with padding, one text at least."""
    groups: list[list[str]] = []
    for digest in digests:
        if not groups or (len(groups[-1]) + 1) * lengths[digest] > budget:
            groups.append([])
        groups[-1].append(digest)
    return groups


def _check(values: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(values))


def _stamp(folder: Path) -> list[int]:
    """Size and time of the embeddings' file; they change whenever somebody writes to it."""
    status = (folder / "values.npy").stat()
    return [status.st_size, status.st_mtime_ns]


def _describe(folder: Path, about: dict[str, Any]) -> None:
    _write(folder / _ABOUT, json.dumps(about, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    """Whole or not at all; unlike `replace_text` it fails where another process has taken the folder away."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
