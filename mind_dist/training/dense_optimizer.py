"""The dense parameters' optimizer, and its state as tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mind_dist.training.sparse_rows import BETAS, EPSILON


def dense_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return Adam over the dense parameters, with the item rows' constants; `loop.train` sets its learning rate."""
    return torch.optim.Adam(model.parameters(), betas=BETAS, eps=EPSILON, fused=True)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return Adam's state as tensors named `parameter/moment`."""
    return {
        f"{name}/{moment}": value
        for name, parameter in model.named_parameters()
        for moment, value in optimizer.state[parameter].items()
    }


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take over what `optimizer_tensors` returned."""
    states: dict[int, dict[str, Tensor]] = {}
    places = {name: place for place, (name, _) in enumerate(model.named_parameters())}
    for full_name, tensor in tensors.items():
        name, _, moment = full_name.rpartition("/")
        states.setdefault(places[name], {})[moment] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
