"""What a Trainer of transformers does beside training: change the share of linear attention."""

from typing import Any

from torch import nn
from transformers import TrainerCallback

from pellucid.core import ArgumentError
from pellucid.tptt._injection import list_liza, set_mag_weight

_MODES = ("gradual", "cyclic", "switch", "constant")


def ensure_int(value: Any) -> int:
    """Return an integer, by itself, in a tensor, or first of a tuple or list."""
    if isinstance(value, (tuple, list)):
        value = value[0]
    return int(value.item() if hasattr(value, "item") else value)


class LiZACallback(TrainerCallback):
    """Changes the share of linear attention as training goes on.

    Args:
        model: Whose layers are changed.
        mode: "gradual" goes from one weight to another in a straight line, "cyclic" takes a list's
            weights in turn, "switch" turns linear attention off and on, off at first, and
            "constant" sets the final weight.
        initial_weight: Where "gradual" begins.
        final_weight: Where it ends.
        transition_step: How many steps it takes.
        weight_list: What "cyclic" takes; the two weights when omitted.
        switch_period: How many steps "switch" stays.

    Raises:
        ArgumentError: (a ValueError) If there is no such mode, or a number has no meaning.
    """

    def __init__(
        self,
        model: nn.Module,
        mode: str = "gradual",
        initial_weight: float = 0.0,
        final_weight: float = 0.5,
        transition_step: int | tuple[int, ...] | list[int] = 100,
        weight_list: list[float] | None = None,
        switch_period: int = 1,
    ) -> None:
        if mode not in _MODES:
            raise ArgumentError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}.")
        if ensure_int(switch_period) < 1:
            raise ArgumentError(f"switch_period must be 1 or more, got {switch_period!r}.")
        self.model = model
        self.mode = mode
        self.initial_weight = float(initial_weight)
        self.final_weight = float(final_weight)
        self.transition_step = ensure_int(transition_step)
        self.weight_list = list(weight_list or [self.initial_weight, self.final_weight])
        self.switch_period = ensure_int(switch_period)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set what holds for the first step."""
        self._apply(ensure_int(state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set what holds for the next step."""
        self._apply(ensure_int(state.global_step))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write the share, and whether linear attention is left out, into the log."""
        layers = list_liza(self.model)
        if logs is not None and layers:
            logs["mag_weight"] = layers[0].mag_weight
            logs["disable_linear_attn"] = layers[0].disable_linear_attn

    def weight_at(self, step: int) -> float:
        """Return the share of linear attention after so many steps."""
        if self.mode == "cyclic":
            return self.weight_list[step % len(self.weight_list)]
        if self.mode == "gradual" and step < self.transition_step:
            part = step / self.transition_step
            return self.initial_weight + (self.final_weight - self.initial_weight) * part
        return self.final_weight

    def _apply(self, step: int) -> None:
        if self.mode == "switch":
            for layer in list_liza(self.model):
                layer.disable_linear_attn = (step // self.switch_period) % 2 == 0
        else:
            set_mag_weight(self.model, self.weight_at(step))


class SaveBestModelCallback(TrainerCallback):
    """Saves when the evaluation's loss is lower than ever, and not otherwise.

    Attributes:
        best_metric: The lowest loss so far.
    """

    def __init__(self) -> None:
        self.best_metric = float("inf")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember what was best before the checkpoint that a run goes on from."""
        losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
        self.best_metric = min([self.best_metric, *losses])

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Compare the loss, and say whether to save."""
        loss = (metrics or {}).get("eval_loss")
        if loss is not None:
            control.should_save = loss < self.best_metric
            self.best_metric = min(loss, self.best_metric)
