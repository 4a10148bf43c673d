"""Fully sharded weights (FSDP2; FSDP: Zhao et al. 2023), by module and tensor by tensor.

The module is one FSDP unit. A training step unshards it before it samples and reshards it after its backward pass, so
that no rank waits for another between two tokens, and weights are plain tensors in between.
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
    """Shard a module in place over the one-dimensional ``mesh`` of all ranks.

    ``methods`` build the graph of a backward pass; every rank keeps ``ignored_params`` in full.
    """
    # Without it every rank would wait for ever for the gradients of weights that one rank's batch leaves out.
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise ConfigError(
            f"trainer=fsdp needs FSDPModule.set_reduce_scatter_unused_params, which torch {torch.__version__} lacks; "
            "use torch 2.13 or later, or trainer=ddp"
        )
    fully_shard(module, mesh=mesh, ignored_params=set(ignored_params))
    assert isinstance(module, FSDPModule)
    module.set_reduce_scatter_unused_params(True)  # one rank's batch may leave out weights that another's uses
    for name in methods:
        register_fsdp_forward_method(module, name)


def is_sharded(module: nn.Module) -> bool:
    """Return whether :func:`shard` was called."""
    return isinstance(module, FSDPModule)


def unshard(module: nn.Module) -> None:
    """Gather the full weights, until the next backward pass or :func:`reshard`; every rank must call this."""
    if isinstance(module, FSDPModule):
        module.unshard()


def reshard(module: nn.Module) -> None:
    """Free the full weights."""
    if isinstance(module, FSDPModule):
        module.reshard()


def full_tensor(value: Any) -> Any:
    """Return ``value``, nested dicts, lists and tuples, with every DTensor in it as a full tensor.

    Every rank must call this, with the same tensors in the same order.
    """
    dtensors: list[DTensor] = []
    _exchange(value, dtensors.append)
    full_tensors = iter(_gather_shards(dtensors))
    return _exchange(value, lambda _: next(full_tensors))


def full_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Return the full tensors of what trains, on the CPU; every rank must call this."""
    trained = {name: param.detach() for name, param in module.named_parameters() if param.requires_grad}
    return {name: tensor.cpu() for name, tensor in full_tensor(trained).items()}


def distribute_like(value: Tensor, parameter: Tensor) -> Tensor:
    """Shard a tensor that all ranks have as ``parameter`` is; of another shape, as a step count, it stays full."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    mesh = parameter.device_mesh
    return distribute_tensor(value.to(parameter.device), mesh, parameter.placements, src_data_rank=None)


def accumulated_gradients(
    stored: Sequence[Mapping[str, Tensor] | None], rank: int, *, sharded: bool
) -> dict[str, Tensor]:
    """Return the gradients with which a rank resumes, whichever strategy of this world size accumulated them.

    ``stored`` has by rank its own gradients; or, of sharded weights, the mean of all on rank 0, and None on the others.
    With ``sharded`` the mean over ranks accumulates now.
    """
    own = [gradients for gradients in stored if gradients is not None]
    if len(own) < len(stored):
        return dict(own[0])  # every rank takes the mean g: averaged over ranks later, it is g again
    if not sharded:
        return dict(own[rank])
    # g = sum_r g_r / world_size; a rank whose batches left a weight out has no gradient of it, which counts as 0.
    names = dict.fromkeys(name for gradients in own for name in gradients)
    by_name = {name: [gradients[name] for gradients in own if name in gradients] for name in names}
    return {name: torch.stack(gradients).sum(0) / len(own) for name, gradients in by_name.items()}


def _exchange(value: Any, replacement: Callable[[DTensor], Any]) -> Any:
    """Return ``value`` with every DTensor in it replaced."""
    if isinstance(value, DTensor):
        return replacement(value)
    if isinstance(value, Mapping):
        return {key: _exchange(item, replacement) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_exchange(item, replacement) for item in value)
    return value


def _gather_shards(sharded: Sequence[DTensor]) -> list[Tensor]:
    """Return the full tensors; those that are not sharded by rows are gathered one by one."""
    full_tensors: dict[int, Tensor] = {}
    # One all_gather per data type: a checkpoint of a small model has hundreds of tensors.
    for dtype in dict.fromkeys(tensor.dtype for tensor in sharded):
        numbers = [n for n, tensor in enumerate(sharded) if tensor.dtype == dtype and tensor.placements == (Shard(0),)]
        if numbers:
            full_tensors |= zip(numbers, _gather_rows([sharded[number] for number in numbers]), strict=True)
    return [full_tensors[n] if n in full_tensors else tensor.full_tensor() for n, tensor in enumerate(sharded)]


def _gather_rows(sharded: Sequence[DTensor]) -> list[Tensor]:
    """Return the full tensors of DTensors of one data type that are sharded by rows, as ``torch.chunk`` splits them."""
    mesh = sharded[0].device_mesh
    own = torch.cat([tensor.to_local().detach().flatten() for tensor in sharded])
    lengths = [[_shard_size(tensor, rank, mesh.size()) for tensor in sharded] for rank in range(mesh.size())]
    # Ranks hold unequally many elements where rows do not divide: all are padded to the longest.
    longest = max(map(sum, lengths))
    gathered = own.new_empty(mesh.size() * longest)
    distributed.all_gather_into_tensor(gathered, F.pad(own, (0, longest - len(own))), group=mesh.get_group())
    # gathered is (rank, elements): cut each rank's row into its shards, and join the shards of each tensor.
    shards = [
        row[: sum(sizes)].split(sizes) for row, sizes in zip(gathered.view(mesh.size(), -1), lengths, strict=True)
    ]
    return [torch.cat(parts).view(tensor.shape) for tensor, *parts in zip(sharded, *shards, strict=True)]


def _shard_size(sharded: DTensor, rank: int, world_size: int) -> int:
    """Count the elements of a rank's shard."""
    rows = -(-sharded.shape[0] // world_size)  # ceil, as torch.chunk
    return len(range(sharded.shape[0])[rank * rows : (rank + 1) * rows]) * sharded.shape[1:].numel()
