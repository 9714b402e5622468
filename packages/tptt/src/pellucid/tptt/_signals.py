"""Values on their way that can be seen and changed, as the outputs of modules can."""

from torch import Tensor, nn


class Signal(nn.Module):
    """Gives what it is given. A forward hook on it sees the value, and may replace it."""

    @property
    def is_watched(self) -> bool:
        """Whether anybody looks; if not, a value need not be made for being looked at."""
        return bool(self._forward_hooks)

    def forward(self, x: Tensor) -> Tensor:
        """Return the value."""
        return x
