"""An accelerator that is not there: tensors claim to live on it, their numbers are computed on the CPU.

It refuses what a GPU refuses, so that code meant for GPUs fails here as it would there: operations that mix devices,
generators of another device, arrays of device memory. It counts the times at which a GPU would make the host wait. It
says nothing about speed, memory, kernels or autocast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "simulated"
CPU = torch.device("cpu")
aten = torch.ops.aten

TAKES_HOST_INDICES = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default}
"""A GPU uploads the indices, and a single value."""
TAKES_HOST_NUMBERS = {
    aten.masked_fill.Tensor,
    aten.masked_fill_.Tensor,
    aten.where.self,
    aten.fill_.Tensor,
    aten.index_fill.int_Tensor,
    aten.index_fill_.int_Tensor,
}
WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.bincount.default,
}
"""Operations whose result, or whose result's shape, the host must read."""


class MixedDevicesError(RuntimeError):
    """What a GPU would have refused."""


class SimulatedTensor(Tensor):
    """A tensor of the simulated device; ``inner`` holds its numbers."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> SimulatedTensor:
        outer = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(NAME, 0),
        )
        outer.inner = inner.detach()
        return outer

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Sequence[type], arguments: Any = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        return compute(operation, arguments, dict(options or {}))

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        _require(isinstance(value, SimulatedTensor), "weights", "host memory in place of device memory")
        _require(value.stride() == self.stride() and value.shape == self.shape, "weights", "of another shape")
        self.inner = value.inner

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def storage(self) -> Any:
        return self.inner.storage()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def tolist(self) -> Any:
        waits["tolist"] += 1
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first")

    def __repr__(self, **_: Any) -> str:
        return f"{self.inner!r} on {self.device}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        twin = SimulatedTensor(self.inner.clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            twin = torch.nn.Parameter(twin, self.requires_grad)
        memo[id(self)] = twin
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As a file gives it to a reader who maps every location to the CPU."""
        twin: Tensor = torch.nn.Parameter(self.inner) if isinstance(self, torch.nn.Parameter) else self.inner
        return twin.__reduce_ex__(protocol)


waits: Counter[str] = Counter()
"""How often the host would have waited for the device, by cause."""


def _require(condition: bool, operation: Any, reason: str) -> None:
    if not condition:
        raise MixedDevicesError(f"{operation}: {reason}")


@cache
def _is_pointwise(operation: Any) -> bool:
    return torch.Tag.pointwise in operation.tags or operation in TAKES_HOST_NUMBERS


def _unwrap(value: Any, tensors: list[Tensor], simulated: list[SimulatedTensor]) -> Any:
    """Replace simulated tensors in lists, tuples and dicts by their inner ones; note all tensors on the way."""
    if isinstance(value, Tensor):
        tensors.append(value)
        if isinstance(value, SimulatedTensor):
            simulated.append(value)
            return value.inner
        return value
    if type(value) in (list, tuple):
        return type(value)([_unwrap(item, tensors, simulated) for item in value])
    if isinstance(value, dict):
        return {key: _unwrap(item, tensors, simulated) for key, item in value.items()}
    return value


def _wrap(value: Any, outer: dict[int, SimulatedTensor]) -> Any:
    """Replace tensors of a result by simulated ones: those of ``outer``, by the identity of their inner tensor."""
    if isinstance(value, Tensor):
        return outer[id(value)] if id(value) in outer else SimulatedTensor(value)
    return type(value)([_wrap(item, outer) for item in value]) if type(value) in (list, tuple) else value


@cache
def _is_mutable(operation: Any) -> bool:
    return bool(operation._schema.is_mutable)


def _reshape(outer: SimulatedTensor) -> None:
    """Follow an operation that reshaped the inner tensor in place."""
    shape = outer.inner.size(), outer.inner.stride(), outer.inner.storage_offset()
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)
    aten.as_strided_.default.redispatch(key, outer, *shape)


def compute(operation: Any, arguments: Any, options: dict[str, Any]) -> Any:
    """Run one operation on the inner tensors, if a GPU would run it on the outer ones."""
    tensors: list[Tensor] = []
    simulated: list[SimulatedTensor] = []
    inner_arguments = [_unwrap(value, tensors, simulated) for value in arguments]
    device = options.get("device")
    on_device = bool(simulated) if device is None else torch.device(device).type == NAME
    if options.get("pin_memory"):
        options["pin_memory"] = False
    if not simulated and not on_device:
        return operation(*arguments, **options)  # the host's own
    inner_options = _unwrap(options, tensors, simulated)
    _check(operation, arguments, options, tensors, simulated, on_device)
    if device is not None:
        inner_options["device"] = CPU if on_device else device
    result = operation(*inner_arguments, **inner_options)
    if _is_mutable(operation):
        for tensor in simulated:
            if tensor.shape != tensor.inner.shape:
                _reshape(tensor)
    if operation is aten.copy_.default:
        return arguments[0]
    return _wrap(result, {id(tensor.inner): tensor for tensor in simulated}) if on_device else result


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, SimulatedTensor) else value


def _check(
    operation: Any,
    arguments: Any,
    options: dict[str, Any],
    tensors: Sequence[Tensor],
    simulated: Sequence[Tensor],
    on_device: bool,
) -> None:
    generator = options.get("generator")
    own = generator is None or (generator._cdata in _device_generators) == on_device
    _require(own, operation, "another device's generator")
    if operation is aten.copy_.default:
        waits["download"] += not isinstance(arguments[0], SimulatedTensor)
        return
    waits["download"] += bool(simulated) and not on_device
    waits["operation"] += operation in WAITS
    waits["repeats"] += operation is aten.repeat_interleave.Tensor and options.get("output_size") is None
    if operation in TAKES_HOST_INDICES:
        self, indices, *rest = arguments
        _require(isinstance(self, SimulatedTensor), operation, "host memory is indexed from the device")
        if any(index is not None and index.dtype == torch.bool for index in indices) and not (
            rest and rest[0].numel() == 1
        ):
            waits["boolean index"] += 1
        fits = not rest or isinstance(rest[0], SimulatedTensor) or rest[0].dim() == 0
        _require(fits, operation, "values in host memory")
        return
    if len(tensors) == len(simulated):
        return
    for tensor in tensors if simulated else ():
        fits = isinstance(tensor, SimulatedTensor) or (tensor.dim() == 0 and _is_pointwise(operation))
        _require(fits, operation, f"a host tensor {tuple(tensor.shape)} among the device's")


class SimulatedDevice(TorchDispatchMode):
    """Makes ``device="simulated"`` mean something in factory functions and copies."""

    def __torch_dispatch__(
        self, operation: Any, types: Sequence[type], arguments: Any = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        return compute(operation, arguments, dict(options or {}))


class DeviceGenerator(torch._C.Generator):
    """A generator of the simulated device, with the CPU's stream of numbers."""

    def __new__(cls, device: Any = CPU) -> Any:
        if torch.device(device).type != NAME:
            return _Generator(device)
        return super().__new__(cls, CPU)

    def __init__(self, device: Any = CPU) -> None:
        _device_generators.add(self._cdata)  # torch does not always hand on the object itself

    def __del__(self) -> None:
        _device_generators.discard(self._cdata)

    @property
    def device(self) -> torch.device:
        return torch.device(NAME, 0)


_Generator = torch._C.Generator
_device_generators: set[int] = set()


class _Backend(_DummyBackendModule):
    """What torch asks of ``torch.simulated``."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def device(self, index: Any) -> Any:
        return nullcontext()


_kept: list[torch.library.Library] = []


def _empty_strided(size: Sequence[int], stride: Sequence[int], *, dtype: Any = None, **_: Any) -> Tensor:
    return SimulatedTensor(torch.empty_strided(size, stride, dtype=dtype, device=CPU))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _inner(target).copy_(_inner(source))
    return target


def _register() -> None:
    """Torch must know of a device before its first backward pass, and cannot forget it."""
    _setup_privateuseone_for_python_backend(NAME, _Backend())
    kernels = torch.library.Library("aten", "IMPL")  # ``torch.tensor`` asks no dispatch mode
    kernels.impl("empty_strided", _empty_strided, "PrivateUse1")
    kernels.impl("_copy_from", _copy_from, "PrivateUse1")
    _kept.append(kernels)


@contextmanager
def simulated_device(patch: Callable[[Any, str, Any], None]) -> Iterator[torch.device]:
    """Simulate the device inside the block.

    Args:
        patch: ``monkeypatch.setattr``.
    """
    waits.clear()
    patch(torch, "Generator", DeviceGenerator)
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # so that tied weights stay tied
    try:
        with SimulatedDevice():
            yield torch.device(NAME, 0)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@contextmanager
def host_alone(device: torch.device) -> Iterator[None]:
    """Compute at full speed inside the block, where ``device`` is the CPU: nothing of the simulated one takes part."""
    with _disable_current_modes() if device.type == "cpu" else nullcontext():
        yield


_register()
