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
    """

    def __init__(self, width: int, temperature: float) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.joint = nn.Linear(2 * width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, task: Tensor, tokens: Tensor, complete: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) task tokens, (B, C, D) tokens, (B, C) bool -> vectors (B, D), weights (B, C), 0 where not complete."""
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = tokens.to(task.dtype)
            of_task, of_token = self.joint.weight.chunk(2, -1)
            hidden = torch.tanh((task @ of_task.T).unsqueeze(1) + tokens @ of_token.T)  # (B, C, D)
            scores = self.score(hidden).squeeze(-1) / self.temperature
            alpha = scores.masked_fill(~complete, -torch.inf).softmax(-1)
            return self.norm((alpha.unsqueeze(1) @ tokens).squeeze(1)), alpha
