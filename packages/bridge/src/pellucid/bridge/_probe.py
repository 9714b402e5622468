"""How a model's modules hand tensors to each other, seen in one small forward pass."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

_N_TOKENS = 3


@dataclasses.dataclass(eq=False)
class Call:
    """One call of one module.

    Attributes:
        module: The module.
        taken: Its main input.
        given: Its main output.
        arguments: Everything tensor that it was given, the main input first.
        n_items: How many items it returned, 0 for a bare tensor.
    """

    module: nn.Module
    taken: Tensor | None
    given: Tensor | None
    arguments: tuple[Tensor, ...]
    n_items: int


class Trace:
    """All calls of one forward pass, first to last; tensors stay alive for comparison."""

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        self._by_module: dict[nn.Module, list[int]] = {}
        for place, call in enumerate(calls):
            self._by_module.setdefault(call.module, []).append(place)

    def first(self, module: nn.Module | None) -> Call | None:
        """Return a module's first call, None if it was not called."""
        places = self._by_module.get(module) if module is not None else None
        return None if not places else self.calls[places[0]]

    def place(self, module: nn.Module) -> int:
        """Return when a module was called first; after all others if it was not."""
        return self._by_module.get(module, [len(self.calls)])[0]


def trace_forward(model: nn.Module) -> Trace:
    """Run a model once on a few tokens and return its calls.

    Nothing of the model is changed; neither is the global random state, as far as the model is in
    evaluation mode.
    """
    calls: list[Call] = []
    handles = [
        module.register_forward_hook(_recorder(calls), with_kwargs=True)
        for module in model.modules()
    ]
    was_training = {module for module in model.modules() if module.training}
    try:
        model.eval()
        with torch.no_grad():
            model(**probe_inputs(model))
    finally:
        for handle in handles:
            handle.remove()
        for module in was_training:
            module.training = True
    # A hook sees a module when it ends; the order that is wanted is that of what it was given.
    return Trace(calls)


def probe_inputs(model: Any) -> dict[str, Any]:
    """Return the smallest inputs that a model runs on."""
    config = model.config
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    top = max(int(getattr(text_config, "vocab_size", 8)) - 1, 1)
    device = next(model.parameters()).device
    ids = torch.tensor([[1, 2, 3]], device=device).clamp(max=top)[:, :_N_TOKENS]
    if getattr(config, "is_encoder_decoder", False):
        return {"input_ids": ids, "decoder_input_ids": ids, "use_cache": False}
    return {"input_ids": ids}


def _recorder(calls: list[Call]) -> Any:
    def record(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        arguments = tuple(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        main = args[0] if args else kwargs.get("hidden_states", kwargs.get("input_ids"))
        taken = main if isinstance(main, Tensor) else next(iter(arguments), None)
        n_items = 0 if isinstance(output, Tensor) else len(output) if output is not None else 0
        given = output if isinstance(output, Tensor) else _first_tensor(output)
        calls.append(Call(module, taken, given, arguments, n_items))

    return record


def _first_tensor(output: Any) -> Tensor | None:
    items = output.values() if hasattr(output, "values") else output or ()
    return next((item for item in items if isinstance(item, Tensor)), None)


def is_same(a: Tensor | None, b: Tensor | None) -> bool:
    """Say whether two tensors are one, or views of the same memory with the same numbers."""
    if a is None or b is None:
        return False
    if a is b:
        return True
    return a.numel() == b.numel() and a.data_ptr() == b.data_ptr() and a.dtype == b.dtype
