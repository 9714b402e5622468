"""The convolution inside a state space, which is no call of a module: its weight goes to torch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.bridge._engine._execution import Execution
from pellucid.bridge._errors import HookError


class ConvolutionInterceptor(TorchFunctionMode):
    """Fires on what a mixer's convolution over positions gives, by position.

    Args:
        mixer: The mixer, whose convolution is its `conv1d`.
        functions: Functions of what it gives, of shape (batch, pos, feature).
        n_positions: How many positions the mixer was given.
    """

    def __init__(
        self, mixer: Any, functions: tuple[Callable[[Tensor], Tensor], ...], n_positions: int
    ) -> None:
        super().__init__()
        self._mixer = mixer
        self._functions = functions
        self._n_positions = n_positions
        self._is_seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func is not torch.conv1d:
            return output
        given = args[0] if args else kwargs["input"]
        # Of a padded one the further positions at the end are no result; of one that goes on from
        # kept positions, all are, and those at the end are the run's.
        return self._fire(output, min(given.shape[-1], output.shape[-1]))

    def check(self, run: Execution) -> None:
        """See that the convolution passed, if somebody may want to change it.

        Args:
            run: The run.

        Raises:
            HookError: (a ValueError) If a kernel did it, which shows nobody what it gives.
        """
        only_keeps = getattr(getattr(run.fire, "__self__", None), "is_quiet", False)
        if not (self._is_seen or run.fire is None or only_keeps):
            raise HookError(
                f"the convolution of {type(self._mixer).__name__} ran in a kernel and cannot be "
                "hooked. Load the model without kernels, or leave conv1d.hook_out out."
            )

    def _fire(self, output: Tensor, stop: int) -> Tensor:
        self._is_seen = True
        start = stop - self._n_positions
        seen = made = output[..., start:stop].mT
        for function in self._functions:
            made = function(made)
        if made is seen:
            return output
        return torch.cat([output[..., :start], made.mT, output[..., stop:]], dim=-1)


def has_convolution(mixer: nn.Module) -> bool:
    """Say whether a mixer has a convolution over positions, of each feature by itself."""
    module = getattr(mixer, "conv1d", None)
    return isinstance(module, nn.Conv1d) and module.groups == module.out_channels
