"""One training step of a model: the same in a run and under the stop watch of `bench throughput`."""

from __future__ import annotations

from inspect import unwrap

import torch
from torch import Tensor, nn

from benchmark.data.batches import LabelledBatch
from benchmark.training.portions import Portions


class Adam(torch.optim.Adam):
    """torch's own, without the wrappers for its compiler: they load it, which takes seconds, and none is wanted."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))
    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    load_state_dict = unwrap(torch.optim.Adam.load_state_dict)


def make_optimizer(model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """Adam over all trainable parameters, one kernel for all of them."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Adam(parameters, lr=learning_rate, fused=True)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    portions: Portions,
    batch: LabelledBatch,
    kind: str,
    weight: float = 1.0,
    clip_norm: float | None = None,
) -> Tensor:
    """Changes the model, which must be in training mode; returns the loss, detached.

    Args:
        portions: computes the gradients. kind, weight: of the batch's task. clip_norm: bound on the gradient norm,
            None for none.
    """
    loss = portions.backward(model, kind, batch, getattr(model, "aux_weights", {}), weight)
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    leave_untouched(model)
    optimizer.step()
    return loss


def leave_untouched(model: nn.Module) -> None:
    """Takes away gradients that are zero altogether, so that the optimizer leaves their parameters as they are.

    Whether a parameter takes part and gets zeros or takes no part and gets none is a matter of how a model is computed:
    the packed form leaves out the layers of a modality that nobody owns, the fixed form cannot. Moments do not go on in
    either (`adam.FlatAdam`).
    """
    given = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norms = torch.stack(torch._foreach_norm([parameter.grad for parameter in given]))
    for parameter, norm in zip(given, norms.tolist(), strict=True):
        if norm == 0 and not parameter.grad.any():  # the squares of the smallest numbers are zero as well
            parameter.grad = None
