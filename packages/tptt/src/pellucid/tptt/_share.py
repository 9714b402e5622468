"""The share of linear attention in a mixture."""

from torch import Tensor

from pellucid.core import ArgumentError


class HasMagWeight:
    """Gives a module `mag_weight`, a number that no checkpoint holds and no optimizer changes."""

    _mag_weight: float

    @property
    def mag_weight(self) -> float:
        """The share of linear attention, from 0 to 1.

        Raises:
            ArgumentError: (a ValueError) If it is set to anything else.
        """
        return self._mag_weight

    @mag_weight.setter
    def mag_weight(self, weight: float | Tensor) -> None:
        if not 0 <= float(weight) <= 1:
            raise ArgumentError(f"mag_weight must be from 0 to 1, got {weight!r}.")
        self._mag_weight = float(weight)
