"""Runs the frozen note encoder: tokens of texts, and the last hidden state of every token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.data.encoder_source import BUILTIN, EncoderSource, resolve
from benchmark.errors import UserError

if TYPE_CHECKING:
    import torch

    from benchmark.data.note_noise import TextNoise

__all__ = [
    "BUILTIN",
    "EncoderSource",
    "Tokens",
    "encode",
    "encoder_key",
    "give_back",
    "load_model",
    "resolve",
    "tokenise",
]

Progress = Callable[[str, int, int], None]

FORMAT = 1
"""Raised whenever the same texts would be encoded differently."""

_TOKENISED_AT_ONCE = 10_000
_MOST_UNKNOWN = 0.5


@dataclass(frozen=True)
class Tokens:
    """Token numbers of texts.

    Attributes:
        ids: one int32 array a text. cut: (texts,) bool, whether the text has more tokens than allowed.
    """

    ids: list[np.ndarray]
    cut: np.ndarray


def encoder_key(source: EncoderSource, max_tokens: int, special_tokens: bool = True) -> str:
    """Name of this encoder with these settings: texts with the same name are encoded the same."""
    settings = {
        "format": FORMAT,
        "files": source.digest(),
        "lower_case": _lower_case(source),
        "special_tokens": special_tokens,
        "max_tokens": max_tokens,
        "stored": "float16",
        "computed": "float32",
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def tokenise(
    source: EncoderSource,
    texts: list[str],
    max_tokens: int,
    special_tokens: bool = True,
    progress: Progress | None = None,
) -> Tokens:
    """Token numbers of each text; longer texts are cut on the right.

    Args:
        max_tokens: at most so many a text, [CLS] and [SEP] among them. special_tokens: whether these two are added.

    Raises:
        UserError: most tokens are unknown to the vocabulary.
    """
    notify = progress or (lambda *_: None)
    tokenizer = _load_tokenizer(source)
    ids: list[np.ndarray] = []
    cut: list[bool] = []
    for start in range(0, len(texts), _TOKENISED_AT_ONCE):
        notify("note tokens", start, len(texts))
        block = texts[start : start + _TOKENISED_AT_ONCE]
        encoded = tokenizer(block, truncation=True, max_length=max_tokens, add_special_tokens=special_tokens)
        ids += [np.array(tokens, dtype=np.int32) for tokens in encoded["input_ids"]]
        cut += [bool(encoding.overflowing) for encoding in encoded.encodings]
    notify("note tokens", len(texts), len(texts))
    words = sum(len(tokens) for tokens in ids) - 2 * special_tokens * len(ids)
    unknown = sum(int((tokens == tokenizer.unk_token_id).sum()) for tokens in ids)
    if unknown > _MOST_UNKNOWN * words:
        raise UserError(
            f"note encoder {source.name}: {unknown} of {words} tokens are unknown to its vocabulary ({source.folder}); "
            "the vocabulary does not fit the texts or was not read"
        )
    return Tokens(ids, np.array(cut, dtype=bool))


def load_model(source: EncoderSource, device: str, dropout: bool = False) -> Any:
    """The encoder, float32, without gradients; every parameter must come from the checkpoint.

    Args:
        dropout: in training mode, with the dropout that its configuration says; otherwise in evaluation mode.

    Raises:
        UserError: the checkpoint cannot be loaded, or dropout is asked for and it has none.
    """
    import torch
    import transformers

    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model, loading = transformers.BertModel.from_pretrained(
            source.folder,
            local_files_only=True,
            add_pooling_layer=False,
            output_loading_info=True,
            # Fused attention would drop with random numbers of its own.
            **({"attn_implementation": "eager"} if dropout else {}),
        )
    except Exception as error:  # whatever the library meets in a damaged or foreign file
        reason = str(error).split(". ")[0].splitlines()[0]  # torch goes on with how to run the code in a file
        raise UserError(f"note encoder {source.folder}: the checkpoint cannot be loaded: {reason}") from error
    finally:
        transformers.logging.set_verbosity(level)
        transformers.utils.logging.enable_progress_bar()
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise UserError(
            f"note encoder {source.folder}: {len(missing)} parameters are not in the weights, e.g. {missing[0]}"
        )
    if dropout and not (model.config.hidden_dropout_prob or model.config.attention_probs_dropout_prob):
        raise UserError(
            f"note encoder {source.folder}: config.json has hidden_dropout_prob and attention_probs_dropout_prob 0; "
            "note_dropout needs one above 0"
        )
    return model.train(dropout).requires_grad_(False).to(torch.device(device), torch.float32)


def encode(ids: list[np.ndarray], model: torch.nn.Module, device: str, noise: TextNoise | None = None) -> np.ndarray:
    """Last hidden state of every token of a batch, end to end, (tokens, width) float16.

    Args:
        ids: token numbers of each text. model: from `load_model`. noise: of these texts, if the model has dropout.
    """
    import torch

    lengths = np.array([len(tokens) for tokens in ids])
    present = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])  # (texts, tokens)
    padded = torch.zeros(present.shape, dtype=torch.int64)
    padded[present] = torch.from_numpy(np.concatenate(ids)).long()
    with torch.inference_mode(), noise or nullcontext():
        hidden = model(input_ids=padded.to(device), attention_mask=present.to(device, torch.int64)).last_hidden_state
    expected = 1 + 3 * model.config.num_hidden_layers  # of the embeddings, and of a layer's attention and two outputs
    if noise is not None and noise.calls != expected:
        raise RuntimeError(f"the note encoder dropped {noise.calls} times in a pass; {expected} expected")
    return hidden.cpu()[present].to(torch.float16).numpy()


def give_back(device: str) -> None:
    """Leaves the memory of a GPU that models held here to other processes; torch would keep it for this one."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


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
