"""Reading activations off the original model, whoever calls it."""

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager

from torch import Tensor

from pellucid.bridge._model._hooking import Hooking
from pellucid.bridge._names._points import HookFunction, HookPoint
from pellucid.core import ActivationsRead


class ActivationReading(Hooking):
    """What makes a bridge a `pellucid.core.ActivationReader`."""

    @property
    def has_hooks(self) -> bool:
        """Whether hooks are attached that act on a pass."""
        return bool(self._gather())

    @contextmanager
    def reading(
        self, names: Iterable[str] = (), *, stop: bool = False
    ) -> Generator[Mapping[str, Tensor]]:
        """Let activations be read off the original model, and attached hooks act, for one pass.

        Args:
            names: Which activations, by any name that they have.
            stop: Whether to leave the pass, by raising `ActivationsRead`, when all are read.

        Yields:
            What has been read, under the names given, with its graph.

        Raises:
            HookNameError: (a KeyError) If a name names nothing.
        """
        wanted = list(dict.fromkeys(names))
        held: dict[str, Tensor] = {}

        def make_hook(name: str) -> HookFunction:
            def keep(value: Tensor, hook: HookPoint) -> None:
                held[name] = value
                if stop and len(held) == len(wanted):
                    raise ActivationsRead

            return keep

        pairs = [(self.explain(name).name, make_hook(name)) for name in wanted]
        with self.hooks(fwd_hooks=pairs), self.running():
            yield held
