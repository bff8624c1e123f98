"""How the balanced forward gets onto a model, and stays on it through copying, pickling and unwrapping.

The model's instance gets a `forward` of its own, bound with `types.MethodType` from a function that knows nothing
but the model's class; everything else is kept on the model, under `STATE`. So `copy.deepcopy` binds the copy's
forward to the copy, and accelerate can wrap and unwrap it. (Forward pre-hooks would not do: peft calls
`model.forward(...)`, not `model(...)`.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any

from torch import nn

STATE = "_cotbal_balance"
EXTRA_INPUTS = ("loss_plan", "loss_task_index", "loss_token_weights")
_METHODS = ("forward", "__reduce_ex__", "_replicate_for_data_parallel")


def install(model: nn.Module, state: Any) -> None:
    """Put the balanced forward on `model`, with `state` behind it (`state._forward(model, kwargs)` does the work)."""
    model.__dict__[STATE] = state
    for name in _METHODS:
        model.__dict__[name] = _bound(type(model), name, model)


def uninstall(model: nn.Module, previous: Callable[..., Any] | None) -> None:
    """Take the balanced forward off again and put back `previous`, the instance's forward before it.

    Raises:
        ValueError: `model.forward` is no longer ours: someone wrapped it, and our part cannot be taken out.
    """
    current = model.__dict__.get("forward")
    if not _is_ours(current, "forward"):
        raise ValueError(
            f"the forward of this {type(model).__name__} was wrapped or replaced after balance() (it is now "
            f"{current!r}); undo that first, with accelerator.unwrap_model(model) if it was accelerate"
        )
    for name in _METHODS:
        model.__dict__.pop(name, None)
    if previous is not None:
        model.__dict__["forward"] = previous
    del model.__dict__[STATE]


def stock_forward(model: nn.Module, previous: Callable[..., Any] | None) -> Callable[..., Any]:
    """The forward that `model` had before."""
    return MethodType(type(model).forward, model) if previous is None else previous


def keyword_inputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All inputs of the stock forward by name."""
    if not args:
        return dict(kwargs)
    bound = inspect.signature(type(model).forward).bind_partial(model, *args)
    return {**dict(list(bound.arguments.items())[1:]), **kwargs}


def _is_ours(method: Any, name: str) -> bool:
    function = getattr(method, "__func__", None)
    return getattr(function, "__code__", None) is _function(nn.Module, name).__code__


@cache
def _function(kind: Any, name: str) -> Callable[..., Any]:
    """The function behind one of the instance methods; one per model class, because of its signature."""
    if name == "_replicate_for_data_parallel":
        return _refuse_data_parallel
    if name == "__reduce_ex__":
        return _reduce_ex

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__[STATE]._forward(self, keyword_inputs(self, args, kwargs))

    # No __wrapped__: accelerate follows that when it unwraps, and would take our forward off in silence.
    forward.__signature__ = _signature(kind)  # type: ignore[attr-defined]
    forward.__doc__ = kind.forward.__doc__
    return forward


def _signature(kind: type[nn.Module]) -> inspect.Signature:
    """The stock signature and our inputs, which keeps `remove_unused_columns` from dropping those."""
    stock = inspect.signature(kind.forward)
    parameters = list(stock.parameters.values())
    end = len(parameters)
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        end -= 1
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in EXTRA_INPUTS
        if name not in stock.parameters
    ]
    return stock.replace(parameters=[*parameters[:end], *added, *parameters[end:]])


def _bound(kind: Any, name: str, model: nn.Module) -> MethodType:
    return MethodType(_function(kind, name), model)


class _Rebinding:
    """Stands for one of our bound methods in a pickle.

    A bound method pickles as `getattr(model, name)`, which finds the class's stock method on the half-made copy.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self.model, self.name = model, name

    def __reduce__(self) -> tuple[Any, ...]:
        return _bound, (type(self.model), self.name, self.model)


def _reduce_ex(self: nn.Module, protocol: Any) -> Any:
    reduced = list(type(self).__reduce_ex__(self, protocol))
    state = dict(reduced[2])
    for name in _METHODS:
        if _is_ours(state.get(name), name):
            state[name] = _Rebinding(self, name)
    reduced[2] = state
    return tuple(reduced)


def _refuse_data_parallel(self: nn.Module) -> nn.Module:
    raise ValueError(
        "torch.nn.DataParallel cannot train a balanced model: its replicas would share one normalizer and one set of "
        "statistics. Launch one process per device instead (torchrun or accelerate launch), or let a single "
        "device be visible"
    )
