"""The twin's tensor and its rules: what runs where, and what of it is written into the ledger.

Imported only after `twin.load`, since it imports torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest import mock

import torch
from torch.distributed import device_mesh
from torch.distributed.fsdp._fully_shard import (
    _fsdp_collectives,
    _fsdp_init,
    _fsdp_param,
    _fsdp_param_group,
    _fsdp_state,
)
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from twin import LEDGER, line

aten = torch.ops.aten
CARD = torch.device("cuda:0")
# Our own operators, whose Python runs over twins as it runs over a card's tensors.
OPENED: dict[Any, Callable[..., Any]] = {}

READ_BY_HOST = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
}
INDEXED = {
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._unsafe_index_put.default,
    aten._index_put_impl_.default,
}
NOT_LAUNCHED = {
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten._unsafe_view.default,
    aten.lift_fresh.default,
    aten._local_scalar_dense.default,
}


class Twin(torch.Tensor):
    """Says cuda:0; `inner` is the CPU tensor that holds its numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, real: torch.Tensor, requires_grad: bool = False) -> Twin:
        outer = torch.empty_strided(real.size(), real.stride(), dtype=real.dtype, device="meta")
        made = torch.Tensor._make_subclass(
            cls, outer, requires_grad, dispatch_device=True, device_for_backend_keys=CARD
        )
        made.inner = real
        LEDGER.hold(real)
        return made

    def __repr__(self) -> str:
        return f"Twin({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Twin:
        return Twin(self.inner.clone(), self.requires_grad)

    def tolist(self) -> Any:
        LEDGER.syncs[f"tolist {line()}"] += 1
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


class OnTheCard(TorchDispatchMode):
    """Makes a twin of what is made on "cuda"."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(one, DTensor) for one in types):
            return NotImplemented  # it asks again for its local tensors
        if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None:
            return func(*args, **(kwargs or {}))  # DTensor asks what shape will come
        return computed(func, args, kwargs or {})


def off_the_card() -> AbstractContextManager[None]:
    """Inside, tensors of the CPU are computed with and nothing is written down."""
    return torch.utils._python_dispatch._disable_current_modes()


class Handle:
    """What FSDP2 asks of `torch.cuda`: one device, and one stream in which all is done at once."""

    Stream, Event = torch.cpu.Stream, torch.cpu.Event
    stream, current_stream = torch.cpu.stream, torch.cpu.current_stream

    @staticmethod
    def current_device() -> int:
        return 0

    device_count, is_initialized = (lambda: 1), (lambda: True)


def handle_of(real: Callable[[str], Any], device: str = "cuda") -> Any:
    return Handle if device == "cuda" else real(device)


def resized(tensor: torch.Tensor, *, full: bool) -> None:
    """Fill or empty a storage, as FSDP2 does with what it gathers."""
    storage = (tensor.inner if isinstance(tensor, Twin) else tensor).untyped_storage()
    size = tensor.numel() * tensor.itemsize if full else 0
    if storage.nbytes() != size:
        storage.resize_(size)
        if isinstance(tensor, Twin):
            LEDGER.measure(storage)


def computed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An operation's result, on the device where a card would put it."""
    if func is torch.ops.prim.device.default:
        return CARD
    tensors = list(tensors_in((args, kwargs)))
    twins = [one for one in tensors if isinstance(one, Twin)]
    plain = [one for one in tensors if not isinstance(one, Twin)]
    asked = kwargs.get("device")
    asked = None if asked is None else torch.device(asked)
    on_card = asked.type == "cuda" if asked is not None else bool(twins)
    if (twins or on_card) and not composite(func):
        written(func, args, kwargs, twins=twins, plain=plain, on_card=on_card)
    if composite(func):
        with OnTheCard():
            return func.decompose(*args, **kwargs)
    if func in OPENED and twins:
        with torch.no_grad(), OnTheCard():
            return OPENED[func](*args, **kwargs)
    inner, named = opened(args), opened(kwargs)
    if asked is not None and asked.type == "cuda":
        named["device"] = torch.device("cpu")
    if named.get("pin_memory"):
        named["pin_memory"] = False
    if func is aten.addmm.dtype_out:
        return widened_product(*inner, **named, out_twin=kwargs["out"])
    if func is aten.mm.dtype_out:
        left, right, dtype = inner
        torch.mm(left.to(dtype), right.to(dtype), out=named["out"])
        return kwargs["out"]
    out = func(*inner, **named)
    if not on_card:
        return out
    return returned(func, args, kwargs, out)


def composite(func: Any) -> bool:
    """Whether it is made of other operations, which is still so here in inference mode alone."""
    return torch.is_inference_mode_enabled() and torch._C._dispatch_has_kernel_for_dispatch_key(
        func.name(), "CompositeImplicitAutograd"
    )


def opened(one: Any) -> Any:
    """An argument with CPU tensors for twins."""
    if isinstance(one, Twin):
        return one.inner
    if isinstance(one, (list, tuple)):
        return type(one)(map(opened, one))
    return {key: opened(value) for key, value in one.items()} if isinstance(one, dict) else one


def tensors_in(one: Any) -> Iterator[torch.Tensor]:
    if isinstance(one, torch.Tensor):
        yield one
    elif isinstance(one, (list, tuple, dict)):
        for part in one.values() if isinstance(one, dict) else one:
            yield from tensors_in(part)


def twins_of(one: Any) -> Any:
    """A result with twins for CPU tensors."""
    if isinstance(one, torch.Tensor):
        return Twin(one)
    return type(one)(map(twins_of, one)) if isinstance(one, (list, tuple)) else one


def widened_product(total, left, right, dtype, *, out, out_twin, beta=1, alpha=1):
    """addmm with sums in `dtype`, which torch has on CUDA alone."""
    wide = torch.addmm(total, left.to(dtype), right.to(dtype), beta=beta, alpha=alpha)
    out.copy_(wide)
    return out_twin


def returned(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Any:
    """`out` as twins. What was written in place is the argument itself."""
    for position, name in written_to(func):
        given = kwargs.get(name, args[position] if position < len(args) else None)
        if isinstance(given, Twin) and given.inner.shape != given.shape:
            raise NotImplementedError(f"twin: {func} changes a tensor's shape in place")
        return given
    base = args[0] if args else None
    if is_view(func) and isinstance(base, torch.Tensor) and not base.is_inference():
        # A view of a tensor from outside inference mode is no inference tensor either.
        with torch.inference_mode(False):
            return twins_of(out)
    return twins_of(out)


@cache
def written_to(func: Any) -> tuple[tuple[int, str], ...]:
    """Place and name of the argument that an operation writes to and returns, at most one."""
    results = func._schema.returns
    if len(results) != 1 or results[0].alias_info is None or not results[0].alias_info.is_write:
        return ()
    places = [
        (place, one.name)
        for place, one in enumerate(func._schema.arguments)
        if one.alias_info is not None and one.alias_info.is_write
    ]
    return tuple(places[:1])


def written(
    func: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    twins: Sequence[Twin],
    plain: Sequence[torch.Tensor],
    on_card: bool,
) -> None:
    """Write down what a card would refuse, wait for or launch."""
    waits = not kwargs.get("non_blocking")
    if func is aten._to_copy.default:
        if waits and bool(twins) != on_card:
            LEDGER.syncs[f"{'to' if on_card else 'from'} the card {line()}"] += 1
    elif func is aten.copy_.default:
        if plain and twins and not (len(args) > 2 and args[2]) and waits:
            LEDGER.syncs[f"{'to' if isinstance(args[0], Twin) else 'from'} the card {line()}"] += 1
    elif twins and func in INDEXED:
        indices = [one for one in args[1] if isinstance(one, torch.Tensor)]
        if any(not isinstance(one, Twin) for one in indices):
            LEDGER.syncs[f"index to the card {line()}"] += 1
        elif any(one.dtype in (torch.bool, torch.uint8) for one in indices):
            LEDGER.syncs[f"index by a mask {line()}"] += 1
        others = [one for one in plain if not any(one is index for index in indices)]
        note_mismatch(func, others)
    elif twins:
        note_mismatch(func, plain)
    if twins and func in READ_BY_HOST:
        LEDGER.syncs[f"{func._schema.name.removeprefix('aten::')} {line()}"] += 1
    if twins and func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
        LEDGER.syncs[f"repeat_interleave {line()}"] += 1
    if on_card and func not in OPENED and func not in NOT_LAUNCHED and not is_view(func):
        LEDGER.launches[func] += 1


def note_mismatch(func: Any, plain: Sequence[torch.Tensor]) -> None:
    """A CPU tensor beside a card's is refused, unless it is one number."""
    wrong = [tuple(one.shape) for one in plain if one.dim()]
    if wrong:
        LEDGER.mismatches[f"{func} takes {wrong[0]} from the CPU {line()}"] += 1


@cache
def is_view(func: Any) -> bool:
    aliases = [one.alias_info for one in func._schema.returns]
    return bool(aliases) and all(one is not None and not one.is_write for one in aliases)


def to_card(model: torch.nn.Module) -> torch.nn.Module:
    """`model.to("cuda")`, in place, tied weights kept tied."""
    moved: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, one in module._parameters.items():
            if one is not None:
                if id(one) not in moved:
                    twin = Twin(one.data.clone())
                    moved[id(one)] = torch.nn.Parameter(twin, one.requires_grad)
                module._parameters[name] = moved[id(one)]
        for name, one in module._buffers.items():
            if one is not None:
                module._buffers[name] = Twin(one.clone())
    return model


def tensor(data: Any, **options: Any) -> torch.Tensor:
    """`torch.tensor`, which reads a card's numbers out of a list one by one."""

    def read(one: Any) -> Any:
        return one.item() if isinstance(one, Twin) else one

    return MAKE(tree_map(read, data), **options)


MAKE = torch.tensor


@contextmanager
def card() -> Iterator[None]:
    """Inside, torch takes the card for real: autocast, fused AdamW and Tensor.to reach the twin."""
    import torch.cuda.amp.common as amp

    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    with ExitStack() as stack:
        for owner, name, value in (
            (torch.cuda, "_lazy_init", None),
            (torch.cuda, "is_current_stream_capturing", False),
            (torch.cuda, "is_bf16_supported", True),
            (amp, "amp_definitely_not_available", False),
        ):
            stack.enter_context(mock.patch.object(owner, name, return_value=value))
        stack.enter_context(mock.patch.object(torch, "tensor", tensor))
        for module in (_fsdp_collectives, _fsdp_init, _fsdp_param_group, _fsdp_state, device_mesh):
            real = device_mesh._get_device_handle
            handle = functools.partial(handle_of, real)
            stack.enter_context(mock.patch.object(module, "_get_device_handle", handle))
        for module, name, full in (
            (_fsdp_param, "alloc_storage", True),
            (_fsdp_param_group, "alloc_storage", True),
            (_fsdp_param, "free_storage", False),
        ):
            sized = functools.partial(resized, full=full)
            stack.enter_context(mock.patch.object(module, name, sized))
        stack.enter_context(OnTheCard())
        try:
            yield
        finally:
            torch._C._set_only_lift_cpu_tensors(before)
