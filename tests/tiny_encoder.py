"""A note encoder of a few parameters on disk, as a checkpoint like BioBERT's lies there."""

from __future__ import annotations

from pathlib import Path

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "pain",
    "chest",
    "COPD",
    "Gout",
    "history",
    "of",
    "##s",
    ",",
    ".",
]


def make_checkpoint(folder: Path) -> Path:
    """Weights, configuration and nothing but a cased word list."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder
