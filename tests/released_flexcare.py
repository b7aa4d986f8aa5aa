"""What the released code of FlexCare computes, written anew over torch's own transformer, padded and dense.

Independent of `models/`: colour films in ImageNet normalisation, sequences padded with zeros, absent modalities as rows
of padding, the mask handed to the attention as numbers, special tokens where the release puts them (each single
combination in front of its modality's tokens, the other four behind the task token), experts called one by one for
the rows that chose them. `load_ours` fills it with the values of our model. Nothing of the release's text is used.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from random_batches import Sample
from torch import Tensor, nn

OURS = ("t", "i", "n", "ti", "tn", "in", "tin")
"""Our order of combinations."""
THEIRS = ("tin", "ti", "tn", "in", "t", "i", "n")
"""Order in which the release lines the combinations up for its experts."""


@dataclass(frozen=True)
class Plan:
    """Places in the padded sequence: of each combination token, and (start, stop) of each modality's tokens."""

    combination: dict[str, int]
    span: dict[str, tuple[int, int]]
    length: int


def places(lengths: dict[str, int]) -> Plan:
    """[task; tin; ti; tn; in; t, series; i, patches; n, note] for the padded lengths of the batch."""
    combination, span, at = {name: 1 + k for k, name in enumerate(THEIRS[:4])}, {}, 5
    for name, length in lengths.items():
        combination[name] = at
        span[name] = (at + 1, at + 1 + length)
        at += 1 + length
    return Plan(combination, span, at)


def forbidden(plan: Plan) -> Tensor:
    """(L, L) bool, the intended mask of the paper: True where a query is not to see a key."""
    barred = torch.ones(plan.length, plan.length, dtype=torch.bool)
    barred[0] = False
    for name, at in plan.combination.items():
        barred[at, at] = False
        for modality in name:
            barred[at, slice(*plan.span[modality])] = False
    for start, stop in plan.span.values():
        barred[start:stop, start:stop] = False
    return barred


class ReleasedFlexCare(nn.Module):
    """The network of the release, for sizes as in `dims`.

    Args:
        enforce: hands the mask to the attention as truth values, which is what the paper describes; the release hands
            it over as numbers, which are added to the scores.
    """

    def __init__(self, dims, classes: list[int], experts: int = 10, top_k: int = 2, enforce: bool = False) -> None:
        super().__init__()
        d = dims.width
        self.dims, self.top_k, self.enforce = dims, top_k, enforce
        self.task = nn.Embedding(40, d)
        self.series, self.patch, self.words = (
            nn.Linear(dims.series_features, d),
            nn.Conv2d(3, d, dims.patch, dims.patch),
            nn.Linear(dims.note_features, d),
        )
        self.position = nn.ParameterDict({"t": torch.zeros(600, d), "i": torch.zeros(197, d), "n": torch.zeros(600, d)})
        self.combination = nn.ParameterDict({name: torch.zeros(d) for name in THEIRS})
        layer = nn.TransformerEncoderLayer(d, dims.heads, 4 * d, dropout=dims.dropout)  # tokens come first
        self.transformer = nn.TransformerEncoder(layer, dims.layers, enable_nested_tensor=False)
        self.gate_token, self.gate_task, self.gate_noise = (nn.Parameter(torch.zeros(d, experts)) for _ in range(3))
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d)) for _ in range(experts))
        self.choose, self.choose2 = nn.Linear(2 * d, d, bias=False), nn.Linear(d, 1, bias=False)
        self.norm = nn.LayerNorm(d)
        self.heads = nn.ModuleList(nn.Linear(2 * d, count) for count in classes)

    def forward(self, samples: list[Sample], task: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, covariance term, balance term times its weight 0.01."""
        encoded, combinations, complete = self.encode(samples, task)
        rows = complete.flatten()
        of_task = encoded[:, None].expand_as(combinations).flatten(0, 1)[rows]
        mixed, balance = self.mix(combinations.flatten(0, 1)[rows], of_task)
        fused = torch.zeros_like(combinations).flatten(0, 1).index_put((rows.nonzero()[:, 0],), mixed)
        fused = fused.view_as(combinations)
        pairs = torch.cat([encoded[:, None].expand_as(fused), fused], -1)
        score = self.choose2(torch.tanh(self.choose(pairs)))[..., 0] - 1e7 * (~complete).to(fused.dtype)
        weight = (score / 0.2).softmax(1)
        patient = torch.cat([encoded, self.norm((weight[..., None] * fused).sum(1))], 1)
        return self.heads[task](patient), self.covariance(combinations), balance

    def tokens(self, samples: list[Sample]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Embedded tokens (B, L, D) of each modality, zeros embedded where there is nothing; and the real lengths."""
        dims, first = self.dims, next(iter(self.parameters()))

        def padded(contents: list[Tensor | None], features: int) -> tuple[Tensor, Tensor]:
            counts = torch.tensor([0 if content is None else len(content) for content in contents])
            filled = first.new_zeros(len(contents), max(1, int(counts.max())), features)
            for row, content in enumerate(contents):
                if content is not None:
                    filled[row, : len(content)] = content
            return filled, counts

        series, hours = padded([sample.ehr for sample in samples], dims.series_features)
        words, count = padded([sample.note for sample in samples], dims.note_features)
        mean = first.new_tensor([0.485, 0.456, 0.406])[:, None, None]
        std = first.new_tensor([0.229, 0.224, 0.225])[:, None, None]
        blank = first.new_zeros(3, dims.film, dims.film)
        films = [blank if s.cxr is None else (s.cxr.expand(3, -1, -1) - mean) / std for s in samples]
        patches = self.patch(torch.stack(films)).flatten(2).transpose(1, 2)
        owned = torch.tensor([s.cxr is not None for s in samples]) * patches.shape[1]
        embedded = {"t": self.series(series), "i": patches, "n": self.words(words)}
        embedded = {name: value + self.position[name][: value.shape[1]] for name, value in embedded.items()}
        return embedded, {"t": hours, "i": owned, "n": count}

    def encode(self, samples: list[Sample], task: int) -> tuple[Tensor, Tensor, Tensor]:
        """Task token (B, D), combinations (B, 7, D) and which are complete (B, 7), both in the order of `THEIRS`."""
        embedded, real = self.tokens(samples)
        plan = places({name: value.shape[1] for name, value in embedded.items()})
        size = len(samples)
        parts = [self.task(torch.full((size,), task))[:, None]]
        parts += [self.combination[name].expand(size, 1, -1) for name in THEIRS[:4]]
        hidden = torch.zeros(size, plan.length, dtype=torch.bool)  # padding: True
        for name, value in embedded.items():
            parts += [self.combination[name].expand(size, 1, -1), value]
            start, stop = plan.span[name]
            hidden[:, start - 1] = real[name] == 0
            hidden[:, start:stop] = torch.arange(stop - start) >= real[name][:, None]
        barred = forbidden(plan)
        mask = barred if self.enforce else barred.to(parts[0].dtype)
        padding = (
            hidden if self.enforce else torch.zeros(hidden.shape, dtype=mask.dtype).masked_fill(hidden, -torch.inf)
        )
        out = self.transformer(torch.cat(parts, 1).transpose(0, 1), mask=mask, src_key_padding_mask=padding)
        out = out.transpose(0, 1)  # (B, L, D)
        combinations = torch.stack([out[:, plan.combination[name]] for name in THEIRS], 1)
        complete = torch.stack([torch.stack([real[m] > 0 for m in name]).all(0) for name in THEIRS], 1)
        return out[:, 0], combinations, complete

    def mix(self, rows: Tensor, of_task: Tensor) -> tuple[Tensor, Tensor]:
        """Experts of each row, one after the other; noise is drawn by `torch.randn_like` in training."""
        clean = rows @ self.gate_token + of_task @ self.gate_task
        sigma = nn.functional.softplus(rows @ self.gate_noise) + 0.01
        logits = clean + (torch.randn_like(clean) * sigma if self.training else 0.0)
        best, chosen = logits.topk(self.top_k + 1, -1)
        gates = torch.zeros_like(clean).scatter(1, chosen[:, :-1], best[:, :-1].softmax(1))
        mixed = torch.zeros_like(rows)
        for e, expert in enumerate(self.experts):
            mine = gates[:, e] > 0
            mixed[mine] = mixed[mine] + gates[mine, e, None] * expert(rows[mine])
        inside = logits > best[:, -1:]
        threshold = torch.where(inside, best[:, -1:], best[:, -2:-1])
        load = torch.distributions.Normal(0.0, 1.0).cdf((clean - threshold) / sigma) if self.training else inside
        total = sum(v.var() / (v.mean() ** 2 + 1e-10) for v in (gates.sum(0), load.to(gates.dtype).sum(0)))
        return mixed, 0.01 * total

    @staticmethod
    def covariance(tokens: Tensor) -> Tensor:
        """Squared covariances of all ordered pairs of combinations, over 36 and the batch."""
        total = 0.0
        for sample in tokens:
            cov = torch.cov(sample)
            total = total + sum(cov[i, j] ** 2 for i, j in itertools.permutations(range(len(sample)), 2))
        return total / (36 * len(tokens))

    @torch.no_grad()
    def load_ours(self, model: nn.Module) -> None:
        """Takes the values of a model of ours with the same sizes."""
        ours = model.state_dict()
        pairs: dict[str, Tensor] = {"task.weight": ours["tasks"]}
        for mine, (name, letter) in {"series": ("ehr", "t"), "patch": ("cxr", "i"), "words": ("note", "n")}.items():
            pairs |= {f"{mine}.{end}": ours[f"embeddings.{name}.project.{end}"] for end in ("weight", "bias")}
            pairs[f"position.{letter}"] = ours[f"embeddings.{name}.position"]
        pairs |= {f"combination.{name}": ours["combinations"][c] for c, name in enumerate(OURS)}
        parts = {"self_attn.in_proj_": "qkv.", "self_attn.out_proj.": "out.", "linear1.": "expand.",
                 "linear2.": "contract.", "norm1.": "norm1.", "norm2.": "norm2."}  # fmt: skip
        for layer, (theirs, mine), end in itertools.product(range(self.dims.layers), parts.items(), ("weight", "bias")):
            pairs[f"transformer.layers.{layer}.{theirs}{end}"] = ours[f"encoder.layers.{layer}.{mine}{end}"]
        pairs |= {f"gate_{end}": ours[f"experts.route_{end}"] for end in ("token", "task", "noise")}
        for e in range(len(self.experts)):
            pairs[f"experts.{e}.0.weight"] = ours["experts.expand"][e]
            pairs[f"experts.{e}.0.bias"] = ours["experts.expand_bias"][e]
            pairs[f"experts.{e}.2.weight"] = ours["experts.contract"][e].T
            pairs[f"experts.{e}.2.bias"] = ours["experts.contract_bias"][e]
        pairs |= {"choose.weight": ours["fusion.joint.weight"], "choose2.weight": ours["fusion.score.weight"]}
        for end in ("weight", "bias"):
            pairs[f"norm.{end}"] = ours[f"fusion.norm.{end}"]
            pairs |= {f"heads.{k}.{end}": ours[f"heads.{k}.{end}"] for k in range(len(self.heads))}
        self.load_state_dict(pairs)
