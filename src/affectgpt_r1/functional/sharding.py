"""Weights whose elements are dealt to processes (FSDP2, Zhao et al. 2023): by module, and tensor by tensor.

The dealt module is one unit. A training step gathers the whole weights before it samples, keeps them up to its backward
pass, and then deals them again. So no process waits for another between two tokens, and code that reads weights, or
exchanges them for a reference's, finds plain tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


def deal(
    module: nn.Module, mesh: DeviceMesh, *, methods: Sequence[str], stay_whole: Iterable[nn.Parameter] = ()
) -> None:
    """Keep of each weight this process's share only.

    Args:
        module: Changed in place.
        mesh: The processes, in one dimension.
        methods: The module's methods that build the graph of a backward pass.
        stay_whole: Parameters that every process keeps.
    """
    fully_shard(module, mesh=mesh, ignored_params=set(stay_whole))
    assert isinstance(module, FSDPModule)
    module.set_reduce_scatter_unused_params(True)  # one process's batch may leave out weights that another's uses
    for name in methods:
        register_fsdp_forward_method(module, name)


def is_dealt(module: nn.Module) -> bool:
    """Whether :func:`deal` was called."""
    return isinstance(module, FSDPModule)


def gather(module: nn.Module) -> None:
    """Make the weights whole, up to the next backward pass or :func:`deal_again`; every process must call this."""
    if isinstance(module, FSDPModule):
        module.unshard()


def deal_again(module: nn.Module) -> None:
    """Free the whole weights."""
    if isinstance(module, FSDPModule):
        module.reshard()


def whole(value: Any) -> Any:
    """``value`` with every dealt tensor in it made whole; dicts, lists and tuples are walked.

    Every process must call this, with the same tensors in the same order.
    """
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, Mapping):
        return {key: whole(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(one) for one in value)
    return value


def dealt_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, the same in every process, dealt as ``parameter`` is; unchanged where that is whole.

    Args:
        value: Of the parameter's shape; any other, such as an optimizer's step count, stays whole.
        parameter: A weight.
    """
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    mesh = parameter.device_mesh
    return distribute_tensor(value.to(parameter.device), mesh, parameter.placements, src_data_rank=None)
