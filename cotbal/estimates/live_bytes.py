"""Counts the bytes of tensors that are alive, of real ones and of stand-ins that have shapes and no data."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["LiveBytes", "SimulatedBytes", "storage_bytes"]

# Integers of up to this many elements stay real: token ids, grids of patches, masks, positions.
_REAL_ELEMENTS = 2**20

Extra = Callable[[Any, tuple[Any, ...]], int]


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is active, counts the bytes of every storage that operators make, until it is freed.

    What an operator takes for itself and gives back before it ends is not seen, unless `extra` tells of it.

    Args:
        extra: of an operator and its arguments: bytes that it takes beside its results while it runs.

    Attributes:
        now: bytes that are alive.
        peak: the most that were alive at once.
    """

    def __init__(self, extra: Extra = lambda operator, arguments: 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._extra = extra
        self._known: dict[int, int] = {}
        self._outside: Any = None

    def __enter__(self) -> Self:
        self._outside = active_fake_mode()
        # FSDP frees and fills its buffers so, past all operators.
        self._resize = torch.UntypedStorage.resize_
        torch.UntypedStorage.resize_ = self._resized()  # type: ignore[method-assign, assignment]
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _resized(self) -> Callable[[torch.UntypedStorage, int], Any]:
        resize = self._resize

        def resize_(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            key = storage._cdata
            if key in self._known:
                self.now += size - self._known[key]
                self._known[key] = size
                self.peak = max(self.peak, self.now)
            return result

        return resize_

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # A sharded tensor's operators are to be seen as those of its local parts.
        if any(kind is DTensor for kind in types):
            return NotImplemented
        result = self._call(operator, args, kwargs or {})
        # Sharded tensors find their results' shapes in a mode of their own, which takes no memory.
        if active_fake_mode() is self._outside:
            tree_map_only(Tensor, self.note, result)
            self.peak = max(self.peak, self.now + self._extra(operator, args))
        return result

    def _call(self, operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return operator(*args, **kwargs)

    def note(self, tensor: Tensor) -> Tensor:
        """Count a tensor's storage until it is freed; a storage counts once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key)
        return tensor

    def _free(self, key: int) -> None:
        self.now -= self._known.pop(key, 0)


class SimulatedBytes(LiveBytes):  # type: ignore[no-untyped-call]
    """The same inside of a `FakeTensorMode`, for code that looks into its smaller inputs.

    Tensors of floating-point numbers have no data. What is made of real tensors alone (token ids, masks, grids of
    patches) stays real, so that a model can ask for its values as it does in training.
    """

    def _call(self, operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with unset_fake_temporarily():
                return operator(*args, **kwargs)
        result = operator(*args, **kwargs)
        if tensors or not isinstance(result, Tensor):
            return result
        if result.is_floating_point() or result.is_complex() or result.numel() > _REAL_ELEMENTS:
            return result
        with unset_fake_temporarily():
            return operator(*args, **kwargs)


def storage_bytes(tensors: Any) -> int:
    """The bytes of the storages of some tensors, each once; of sharded tensors, their local parts'."""
    found: dict[int, int] = {}
    for tensor in tensors:
        local = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
        storage = local.untyped_storage()
        found[storage._cdata] = storage.nbytes()
    return sum(found.values())


def without_data(tensor: Any) -> Any:
    """A stand-in of the same shape and dtype; inside of a `FakeTensorMode`."""
    if isinstance(tensor, Tensor) and tensor.is_floating_point():
        return torch.empty_like(tensor)
    return tensor
