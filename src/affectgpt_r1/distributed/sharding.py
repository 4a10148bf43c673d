"""Weights whose elements are sharded to processes (FSDP2, Zhao et al. 2023): by module, and tensor by tensor.

The sharded module is one unit. A training step gathers the whole weights before it samples, keeps them up to its
backward pass, and then deals them again. So no process waits for another between two tokens, and code that reads
weights, or exchanges them for a reference's, finds plain tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn import functional as F

from affectgpt_r1.errors import ConfigError


def shard(
    module: nn.Module, mesh: DeviceMesh, *, methods: Sequence[str], ignored_params: Iterable[nn.Parameter] = ()
) -> None:
    """Keep of each weight this process's share only.

    Args:
        module: Changed in place.
        mesh: The processes, in one dimension.
        methods: The module's methods that build the graph of a backward pass.
        ignored_params: Parameters that every process keeps.

    Raises:
        ConfigError: This torch would wait for ever for the gradients of weights that one process's batch leaves out.
    """
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise ConfigError(
            f"trainer=fsdp needs FSDPModule.set_reduce_scatter_unused_params, which torch {torch.__version__} lacks; "
            "use torch 2.13 or later, or trainer=ddp"
        )
    fully_shard(module, mesh=mesh, ignored_params=set(ignored_params))
    assert isinstance(module, FSDPModule)
    module.set_reduce_scatter_unused_params(True)  # one process's batch may leave out weights that another's uses
    for name in methods:
        register_fsdp_forward_method(module, name)


def is_sharded(module: nn.Module) -> bool:
    """Whether :func:`deal` was called."""
    return isinstance(module, FSDPModule)


def unshard(module: nn.Module) -> None:
    """Make the weights whole, up to the next backward pass or :func:`reshard`; every process must call this."""
    if isinstance(module, FSDPModule):
        module.unshard()


def reshard(module: nn.Module) -> None:
    """Free the whole weights."""
    if isinstance(module, FSDPModule):
        module.reshard()


def full_tensor(value: Any) -> Any:
    """``value`` with every sharded tensor in it made whole; dicts, lists and tuples are walked.

    Every process must call this, with the same tensors in the same order. Shares travel together, in one operation for
    each data type: a checkpoint of a small model holds hundreds of tensors.
    """
    found: list[DTensor] = []
    _exchange(value, found.append)
    full_tensors = iter(_gather_shards(found))
    return _exchange(value, lambda _: next(full_tensors))


def full_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Whole tensors of what trains, on the CPU; every process must call this."""
    trained = {name: one.detach() for name, one in module.named_parameters() if one.requires_grad}
    return {name: one.cpu() for name, one in full_tensor(trained).items()}


def distribute_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, the same in every process, sharded as ``parameter`` is; unchanged where that is whole.

    Args:
        value: Of the parameter's shape; any other, such as an optimizer's step count, stays whole.
        parameter: A weight.
    """
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    mesh = parameter.device_mesh
    return distribute_tensor(value.to(parameter.device), mesh, parameter.placements, src_data_rank=None)


def accumulated_gradients(
    found: Sequence[Mapping[str, Tensor] | None], rank: int, *, sharded: bool
) -> dict[str, Tensor]:
    """Gradients that a process goes on with, accumulated under whichever strategy by as many processes.

    Args:
        found: What each process stored: its own gradients; or, of sharded weights, the first process the mean of all,
            and the others None.
        rank: This process.
        sharded: Whether the weights are sharded here, so that what accumulates is the mean of all processes.
    """
    own = [gradients for gradients in found if gradients is not None]
    if len(own) < len(found):
        return dict(own[0])  # the mean of equal gradients is that mean
    if not sharded:
        return dict(own[rank])
    names = dict.fromkeys(name for gradients in own for name in gradients)
    shares = {name: [gradients[name] for gradients in own if name in gradients] for name in names}
    return {name: torch.stack(share).sum(0) / len(own) for name, share in shares.items()}


def _exchange(value: Any, replacement: Callable[[DTensor], Any]) -> Any:
    """``value`` with every sharded tensor in it replaced."""
    if isinstance(value, DTensor):
        return replacement(value)
    if isinstance(value, Mapping):
        return {key: _exchange(one, replacement) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_exchange(one, replacement) for one in value)
    return value


def _gather_shards(sharded: Sequence[DTensor]) -> list[Tensor]:
    """The whole tensors; those that are not sharded by rows, such as a norm's parts, one by one."""
    full_tensors: dict[int, Tensor] = {}
    for dtype in dict.fromkeys(one.dtype for one in sharded):
        numbers = [number for number, one in enumerate(sharded) if one.dtype == dtype and one.placements == (Shard(0),)]
        if numbers:
            full_tensors |= zip(numbers, _gather_rows([sharded[number] for number in numbers]), strict=True)
    return [full_tensors[number] if number in full_tensors else one.full_tensor() for number, one in enumerate(sharded)]


def _gather_rows(sharded: Sequence[DTensor]) -> list[Tensor]:
    """The whole tensors of some of one data type that are sharded by rows, as ``torch.chunk`` deals them."""
    mesh = sharded[0].device_mesh
    own = torch.cat([one.to_local().detach().flatten() for one in sharded])
    lengths = [[_shard_size(one, rank, mesh.size()) for one in sharded] for rank in range(mesh.size())]
    longest = max(map(sum, lengths))
    gathered = own.new_empty(mesh.size() * longest)
    distributed.all_gather_into_tensor(gathered, F.pad(own, (0, longest - len(own))), group=mesh.get_group())
    shares = [
        row[: sum(sizes)].split(sizes) for row, sizes in zip(gathered.view(mesh.size(), -1), lengths, strict=True)
    ]
    return [torch.cat(parts).view(one.shape) for one, *parts in zip(sharded, *shares, strict=True)]


def _shard_size(sharded: DTensor, rank: int, num_processes: int) -> int:
    """Elements of a process's share."""
    rows = -(-sharded.shape[0] // num_processes)
    return len(range(sharded.shape[0])[rank * rows : (rank + 1) * rows]) * sharded.shape[1:].numel()
