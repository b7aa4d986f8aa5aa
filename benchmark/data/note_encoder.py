"""Runs the frozen note encoder once over all texts and keeps its token embeddings on disk.

`DATA/notes/embeddings/<key>/` holds one sequence per row of `DATA/notes/texts.parquet`: the last hidden state of every
token, [CLS] and [SEP] among them, as float16. The key depends on the encoder's files, the tokenizer settings and the
token limit alone. Each chunk of work goes straight to its place in an unfinished store beside the final one, and a mark
says that it is there: an interrupted run goes on where it stopped, and the disk never holds embeddings twice, except
those of sections that an earlier run has finished. Equal texts are encoded once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from benchmark.data.encoder_source import BUILTIN, EncoderSource, resolve
from benchmark.data.stores import RaggedStore, RaggedWriter, new_folder
from benchmark.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = ["BUILTIN", "EncoderInfo", "EncoderSource", "encoder_key", "ensure_embeddings", "resolve"]

Progress = Callable[[str, int, int], None]

FORMAT = 1
"""Raised whenever the same texts would be encoded differently."""

_MARKS = "done"
_CHUNK_TOKENS = 65_536
_BATCH_TOKENS = {"cpu": 4_096, "cuda": 65_536}
_TOKENISED_AT_ONCE = 10_000
_MOST_UNKNOWN = 0.5


@dataclass(frozen=True)
class EncoderInfo:
    """A note encoder whose embeddings are ready: `key` names their folder, `name` is printed, `width` is per token."""

    key: str
    name: str
    width: int


def encoder_key(source: EncoderSource, max_tokens: int) -> str:
    """Name of the folder for this encoder and token limit."""
    settings = {
        "format": FORMAT,
        "files": source.digest(),
        "lower_case": _lower_case(source),
        "special_tokens": True,
        "max_tokens": max_tokens,
        "stored": "float16",
        "computed": "float32",
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def ensure_embeddings(
    data_dir: Path, spec: str, sections: set[str], max_tokens: int, device: str, progress: Progress | None = None
) -> EncoderInfo:
    """Makes sure that the embeddings of all texts of `sections` exist; encodes what is not there yet.

    Args:
        data_dir: a prepared data set. spec: see `resolve`. sections: e.g. {"pmh"}.
        max_tokens: longer texts are cut on the right; [CLS] and [SEP] count.
        device: where the encoder runs. progress: called with (what, done, total).
    """
    source = resolve(spec)
    if not 3 <= max_tokens <= source.positions:
        raise UserError(f"max_tokens {max_tokens}; {source.name} allows 3 to {source.positions}")
    info = EncoderInfo(encoder_key(source, max_tokens), source.name, source.width)
    target = Path(data_dir) / "notes" / "embeddings" / info.key
    try:
        if not sections <= _sections_in(target):
            _extend(target, source, info, sections, max_tokens, device, progress)
    except (FileExistsError, FileNotFoundError):
        # Another process has finished the same work first and tidied up.
        if not sections <= _sections_in(target):
            raise
    return info


def _extend(
    target: Path,
    source: EncoderSource,
    info: EncoderInfo,
    sections: set[str],
    max_tokens: int,
    device: str,
    progress: Progress | None,
) -> None:
    """Writes `target` with `sections` and those that it has already."""
    texts = pd.read_parquet(target.parents[1] / "texts.parquet", columns=["section", "text", "digest"])
    ready = _sections_in(target)
    wanted = ready | sections
    chosen = texts[texts["section"].isin(wanted)]
    unique = chosen.drop_duplicates("digest").set_index("digest")["text"]
    known = _stored(target, texts, ready)
    fresh = unique[[digest not in known for digest in unique.index]]
    tokens = dict(zip(fresh.index, _tokenise(source, fresh.tolist(), max_tokens) if len(fresh) else [], strict=True))
    lengths = {digest: len(values) for digest, values in (known | tokens).items()}

    rows: dict[str, list[int]] = {}
    for row, digest in zip(chosen.index.tolist(), chosen["digest"], strict=True):
        rows.setdefault(digest, []).append(row)
    per_row = np.zeros(len(texts), dtype=np.int64)
    per_row[chosen.index] = [lengths[digest] for digest in chosen["digest"]]
    partial = _begun(target, info, sorted(wanted), per_row)
    writer = RaggedWriter.reopen(partial)
    for digest, values in known.items():
        for row in rows[digest]:
            writer.write(row, values)
    _encode_all(source, tokens, device, writer, rows, partial, progress)
    writer.close()
    details = asdict(info) | {"kind": source.kind, "max_tokens": max_tokens, "sections": sorted(wanted)}
    (partial / "encoder.json").write_text(json.dumps(details | {"format": FORMAT}, indent=2) + "\n", encoding="utf-8")
    # Of several processes that filled this store, the one that takes its name goes on; the others find it gone.
    finished = target.with_name(f".{target.name}.finished-{os.getpid()}")
    replaced = target.with_name(f".{target.name}.replaced-{os.getpid()}")
    partial.rename(finished)
    shutil.rmtree(finished / _MARKS)
    if ready:
        target.rename(replaced)
    elif target.exists():
        shutil.rmtree(finished)
        raise FileExistsError(f"{target} exists already")
    finished.rename(target)
    for left in (replaced, *target.parent.glob(f".partial-{info.key}-*")):
        shutil.rmtree(left, ignore_errors=True)


def _begun(target: Path, info: EncoderInfo, sections: list[str], per_row: np.ndarray) -> Path:
    """The unfinished store of these sections and texts; begun if there is none.

    Raises:
        UserError: the disk has no room for it.
    """
    content = hashlib.sha256(json.dumps(sections).encode() + per_row.tobytes()).hexdigest()[:16]
    partial = target.with_name(f".partial-{info.key}-{content}")
    target.parent.mkdir(parents=True, exist_ok=True)
    needed = int(per_row.sum()) * info.width * np.dtype(np.float16).itemsize
    values = partial / "values.npy"
    written = values.stat().st_blocks * 512 if values.exists() else 0
    free = shutil.disk_usage(target.parent).free
    if needed - written > free:
        raise UserError(
            f"the note embeddings need {(needed - written) / 1e9:,.1f} GB more in {target.parent}; "
            f"{free / 1e9:,.1f} GB are free"
        )
    if not partial.exists():
        # Another process may begin the same store at the same time; both then write equal values.
        with suppress(FileExistsError), new_folder(partial) as folder:
            RaggedWriter(folder, per_row, info.width).close()
            (folder / _MARKS).mkdir()
    return partial


def _sections_in(target: Path) -> set[str]:
    """Sections that a finished folder covers; none if there is no such folder."""
    try:
        return set(json.loads((target / "encoder.json").read_text(encoding="utf-8"))["sections"])
    except FileNotFoundError:
        return set()


def _stored(target: Path, texts: pd.DataFrame, ready: set[str]) -> dict[str, np.ndarray]:
    """Embeddings by digest that an earlier call with fewer sections has left; memory-mapped."""
    if not ready:
        return {}
    store = RaggedStore.open(target)
    rows = texts.index[texts["section"].isin(ready)]
    return {texts["digest"].iat[row]: store[row] for row in rows.tolist()}


def _encode_all(
    source: EncoderSource,
    tokens: dict[str, np.ndarray],
    device: str,
    writer: RaggedWriter,
    rows: dict[str, list[int]],
    partial: Path,
    progress: Progress | None,
) -> None:
    """Encodes texts chunk by chunk into their rows of the store; skips chunks that are marked as done.

    Args:
        tokens: token numbers by digest. rows: rows of the store by digest. partial: folder of the store.
    """
    notify = progress or (lambda *_: None)
    lengths = {digest: len(ids) for digest, ids in tokens.items()}
    ordered = sorted(tokens, key=lambda digest: (lengths[digest], digest))
    model: Any = None
    done = 0
    notify("note embeddings", 0, len(ordered))
    for digests in _grouped(ordered, lengths, _CHUNK_TOKENS):
        mark = partial / _MARKS / hashlib.sha256("\n".join(digests).encode()).hexdigest()[:32]
        if not mark.exists():
            model = model or _load_model(source, device)
            for batch in _grouped(digests, lengths, _BATCH_TOKENS.get(device.split(":")[0], _BATCH_TOKENS["cpu"])):
                values = _encode([tokens[digest] for digest in batch], model, device)
                stops = np.cumsum([lengths[digest] for digest in batch])
                for digest, part in zip(batch, np.split(values, stops[:-1]), strict=True):
                    for row in rows[digest]:
                        writer.write(row, part)
            writer.close()
            mark.touch()
        done += len(digests)
        notify("note embeddings", done, len(ordered))


def _grouped(digests: list[str], lengths: dict[str, int], budget: int) -> list[list[str]]:
    """Consecutive groups of texts, sorted by length, of at most `budget` tokens with padding, one text at least."""
    groups: list[list[str]] = []
    for digest in digests:
        if not groups or (len(groups[-1]) + 1) * lengths[digest] > budget:
            groups.append([])
        groups[-1].append(digest)
    return groups


def _lower_case(source: EncoderSource) -> bool | None:
    """Where the checkpoint does not say how to treat case: whether its word list knows no capitals. Otherwise None."""
    settings = source.folder / "tokenizer_config.json"
    if (source.folder / "tokenizer.json").is_file():
        return None
    if settings.is_file() and "do_lower_case" in json.loads(settings.read_text(encoding="utf-8")):
        return None
    words = (source.folder / "vocab.txt").read_text(encoding="utf-8").split()
    return not any(word != word.lower() for word in words if not word.startswith("["))


def _load_tokenizer(source: EncoderSource) -> Any:
    from transformers import AutoTokenizer, BertTokenizerFast

    described = any((source.folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    lower = _lower_case(source)
    # Left alone, a bare word list would be read with all text in lower case, a cased one too.
    options = {} if lower is None else {"do_lower_case": lower}
    try:
        loader = AutoTokenizer if described else BertTokenizerFast
        return loader.from_pretrained(source.folder, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"note encoder {source.folder}: the tokenizer cannot be loaded: {error}") from error


def _tokenise(source: EncoderSource, texts: list[str], max_tokens: int) -> list[np.ndarray]:
    """Token numbers of each text with [CLS] and [SEP], at most `max_tokens`, int32."""
    tokenizer = _load_tokenizer(source)
    ids: list[np.ndarray] = []
    for start in range(0, len(texts), _TOKENISED_AT_ONCE):
        block = texts[start : start + _TOKENISED_AT_ONCE]
        encoded = tokenizer(block, truncation=True, max_length=max_tokens, add_special_tokens=True)
        ids += [np.array(tokens, dtype=np.int32) for tokens in encoded["input_ids"]]
    words = sum(len(tokens) - 2 for tokens in ids)
    unknown = sum(int((tokens == tokenizer.unk_token_id).sum()) for tokens in ids)
    if unknown > _MOST_UNKNOWN * words:
        raise UserError(
            f"note encoder {source.name}: {unknown} of {words} tokens are unknown to its vocabulary ({source.folder}); "
            "the vocabulary does not fit the texts or was not read"
        )
    return ids


def _load_model(source: EncoderSource, device: str) -> Any:
    """The encoder in evaluation mode, float32; every parameter must come from the checkpoint."""
    import torch
    import transformers

    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model, loading = transformers.BertModel.from_pretrained(
            source.folder, local_files_only=True, add_pooling_layer=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"note encoder {source.folder}: the checkpoint cannot be loaded: {error}") from error
    finally:
        transformers.logging.set_verbosity(level)
        transformers.utils.logging.enable_progress_bar()
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise UserError(
            f"note encoder {source.folder}: {len(missing)} parameters are not in the weights, e.g. {missing[0]}"
        )
    return model.eval().requires_grad_(False).to(torch.device(device), torch.float32)


def _encode(ids: list[np.ndarray], model: torch.nn.Module, device: str) -> np.ndarray:
    """Last hidden state of every token of a batch, end to end, (tokens, width) float16."""
    import torch

    lengths = np.array([len(tokens) for tokens in ids])
    present = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])  # (texts, tokens)
    padded = torch.zeros(present.shape, dtype=torch.int64)
    padded[present] = torch.from_numpy(np.concatenate(ids)).long()
    with torch.inference_mode():
        hidden = model(input_ids=padded.to(device), attention_mask=present.to(device, torch.int64)).last_hidden_state
    return hidden.cpu()[present].to(torch.float16).numpy()
