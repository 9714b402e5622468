"""Forward hooks that are put on modules together and taken off together.

This is the one place that writes the dictionaries in which torch keeps a module's hooks. To
register makes a handle for each hook, and to remove one looks it up again: a cache of all
activations has a hundred hooks, whose handles alone would take a quarter of the time of a small
model's forward pass. A test compares what is written here with what registering leaves behind.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

from torch import nn
from torch.utils.hooks import RemovableHandle

Side: TypeAlias = Literal["before", "after"]
HookSite: TypeAlias = tuple[nn.Module, Side, Callable[..., Any]]
"""A module, on which side of it, and what is called there, keywords included."""

_LOCK = threading.Lock()


class HookSet:
    """Hooks that are there while at least one user of them is.

    Args:
        sites: Before a module, a hook is called as `hook(module, args, kwargs)`; after it, as
            `hook(module, args, kwargs, output)`.
    """

    def __init__(self, sites: Iterable[HookSite]) -> None:
        # Numbers of torch's own, so that they are no other hook's.
        self._sites: list[tuple[Any, bool, int, Callable[..., Any]]] = [
            (module, side == "before", RemovableHandle(OrderedDict()).id, hook)
            for module, side, hook in sites
        ]
        self._n_users = 0

    def install(self) -> None:
        """Put the hooks on their modules, unless they are there."""
        with _LOCK:
            self._n_users += 1
            if self._n_users > 1:
                return
            for module, is_before, number, hook in self._sites:
                if is_before:
                    module._forward_pre_hooks[number] = hook
                    module._forward_pre_hooks_with_kwargs[number] = True
                else:
                    module._forward_hooks[number] = hook
                    module._forward_hooks_with_kwargs[number] = True

    def remove(self) -> None:
        """Take the hooks away, unless somebody else still needs them."""
        with _LOCK:
            self._n_users -= 1
            if self._n_users:
                return
            for module, is_before, number, _ in self._sites:
                if is_before:
                    module._forward_pre_hooks.pop(number, None)
                    module._forward_pre_hooks_with_kwargs.pop(number, None)
                else:
                    module._forward_hooks.pop(number, None)
                    module._forward_hooks_with_kwargs.pop(number, None)
