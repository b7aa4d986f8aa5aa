"""Attention fusion of combination tokens into one patient vector (FlexCare)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.checks import check_positive


class AttentionFusion(nn.Module):
    """Weighs the tokens of complete combinations by how they fit the task.

        a_c   = w2 . tanh(W1 [z_task ; s_c])
        alpha = softmax over complete c of a_c / temperature
        v     = LayerNorm(sum_c alpha_c s_c)

    Args:
        width: D. temperature: of the softmax; the authors' code uses 0.2.
        task: whether there is a task token; without one the scores come from s_c alone.
    """

    def __init__(self, width: int, temperature: float, task: bool = True) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.joint = nn.Linear((1 + task) * width, width, bias=False)  # W1
        self.score = nn.Linear(width, 1, bias=False)  # w2
        self.norm = nn.LayerNorm(width)

    def forward(self, task: Tensor | None, tokens: Tensor, complete: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) task tokens, (B, C, D) tokens, (B, C) bool -> vectors (B, D), weights (B, C), 0 where not complete."""
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = tokens.to(self.joint.weight.dtype)
            *of_task, of_token = self.joint.weight.split(tokens.shape[-1], -1)  # each (D, D)
            hidden = tokens @ of_token.T  # (B, C, D)
            if task is not None:
                hidden = hidden + (task.to(tokens.dtype) @ of_task[0].T).unsqueeze(1)
            scores = self.score(torch.tanh(hidden)).squeeze(-1) / self.temperature  # (B, C)
            alpha = scores.masked_fill(~complete, -torch.inf).softmax(-1)
            return self.norm((alpha.unsqueeze(1) @ tokens).squeeze(1)), alpha
