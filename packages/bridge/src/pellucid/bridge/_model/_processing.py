"""The methods of a bridge that rewrite a model's weights without changing what it predicts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from pellucid.bridge._errors import ArchitectureError
from pellucid.bridge._model._weighing import Weighing
from pellucid.bridge._weights._centre import UnembeddingCentring, WriterCentring
from pellucid.bridge._weights._fold_norms import NormFolding
from pellucid.bridge._weights._fold_values import ValueBiasFolding
from pellucid.bridge._weights._ground import Ground
from pellucid.bridge._weights._ledger import Ledger
from pellucid.bridge._weights._refactor import Refactoring

FLAGS = (
    "fold_ln",
    "center_writing_weights",
    "center_unembed",
    "fold_value_biases",
    "refactor_factored_attn_matrices",
)
# Of log-probabilities, in nats: more than rounding can do to a model in this precision. In half
# precision the weights themselves are rounded, and the report says by how much it shows.
_TOLERANCE = {torch.float32: 2e-3, torch.float64: 1e-6}


@dataclass(frozen=True, kw_only=True)
class ProcessingReport:
    """What weight processing has done.

    Attributes:
        applied: The flags that were carried out, in their order.
        left_out: The flags that were left to the bridge and that the model does not admit, each
            with the reason.
        max_log_prob_gap: The largest difference between a log-probability before and after, in
            nats, on the probe.
    """

    applied: tuple[str, ...]
    left_out: Mapping[str, str]
    max_log_prob_gap: float

    def __str__(self) -> str:
        lines = [f"applied: {', '.join(self.applied) or 'nothing'}"]
        lines += [f"left out: {flag}, because {why}" for flag, why in self.left_out.items()]
        lines.append(f"largest log-probability difference: {self.max_log_prob_gap:.2e} nats")
        return "\n".join(lines)


class Processing(Weighing):
    """Weight processing, all of it taken back by `restore`.

    The model's own parameters are rewritten: its forward pass without the bridge gives the same
    log-probabilities as well. Where a projection needs a bias that it does not have, it gets one,
    and embeddings that share their matrix with the unembedding are parted from it.
    """

    def enable_compatibility_mode(
        self,
        disable_warnings: bool = False,
        no_processing: bool = False,
        fold_ln: bool | None = None,
        center_writing_weights: bool | None = None,
        center_unembed: bool | None = None,
        fold_value_biases: bool | None = None,
        refactor_factored_attn_matrices: bool | None = False,
    ) -> ProcessingReport:
        """Process the weights as `HookedTransformer` does when it loads a model.

        Names need no compatibility: all that users of TransformerLens know are always there.

        Args:
            disable_warnings: Understood and without effect: there are no warnings to disable.
            no_processing: Whether to leave all weights as they are.
            fold_ln: As in `process_weights`; so are the others.
            center_writing_weights: As in `process_weights`.
            center_unembed: As in `process_weights`.
            fold_value_biases: As in `process_weights`.
            refactor_factored_attn_matrices: As in `process_weights`.

        Returns:
            What was done, and how much it shows in the log-probabilities.

        Raises:
            ArchitectureError: (a ValueError) As `process_weights`.
        """
        if no_processing:
            report = ProcessingReport(
                applied=(), left_out=MappingProxyType({}), max_log_prob_gap=0.0
            )
        else:
            report = self.process_weights(
                fold_ln=fold_ln, center_writing_weights=center_writing_weights,
                center_unembed=center_unembed, fold_value_biases=fold_value_biases,
                refactor_factored_attn_matrices=refactor_factored_attn_matrices,
            )  # fmt: skip
        was_enabled, self.compatibility_mode = self.compatibility_mode, True
        self._undo_boot.append(lambda: setattr(self, "compatibility_mode", was_enabled))
        return report

    def process_weights(
        self,
        verbose: bool = False,
        fold_ln: bool | None = None,
        center_writing_weights: bool | None = None,
        center_unembed: bool | None = None,
        fold_value_biases: bool | None = None,
        refactor_factored_attn_matrices: bool | None = False,
        *,
        probe: Tensor | None = None,
    ) -> ProcessingReport:
        """Rewrite the weights so that they are easier to interpret and predict the same.

        A flag that is None is carried out if the model admits it, one that is True is refused if
        the model does not. Nothing is changed before all flags have been found to hold, and all is
        taken back if the log-probabilities then differ by more than rounding explains.

        Args:
            verbose: Whether to print the report.
            fold_ln: Fold the weights and biases of norms into the projections that read them.
                Needs LayerNorm or RMSNorm (with or without an offset) before projections.
            center_writing_weights: Take the mean from what is written to the stream. Needs
                LayerNorm wherever the stream is read.
            center_unembed: Take the mean over the vocabulary from the logits. Needs logits without
                a cap.
            fold_value_biases: Make value biases a part of attention's output bias. Needs patterns
                whose rows sum to 1: no sinks, and no dropout on patterns, which training has.
            refactor_factored_attn_matrices: Choose the bases of heads' inner axes by singular
                value decomposition. Needs queries and keys that are not rotated, normalised or
                shared; folds value biases as well.
            probe: Token ids of shape (batch, pos) on which log-probabilities are compared; drawn
                from the vocabulary if None.

        Returns:
            What was done, and how much it shows in the log-probabilities.

        Raises:
            ArchitectureError: (a ValueError) If a flag is True that the model does not admit, if
                weights are quantised or kept elsewhere, or if the processed model predicts
                something else.
        """
        chosen = (
            fold_ln, center_writing_weights, center_unembed, fold_value_biases,
            refactor_factored_attn_matrices,
        )  # fmt: skip
        ground = Ground(self, probe)
        steps, left_out = self._plan_steps(ground, dict(zip(FLAGS, chosen, strict=True)))
        before = ground.log_probs()
        ledger = Ledger(self.original_model)
        try:
            for step in steps.values():
                step(ledger)
                if ledger.has_added:
                    self.forget_weights()
            gap = float((ground.log_probs() - before).nan_to_num().abs().max())
            self._check_gap(gap, tuple(steps))
        except BaseException:
            self._take_back(ledger)
            raise
        if "fold_ln" in steps and self.cfg.normalization_type in ("LN", "RMS"):
            ledger.set(self.cfg, "normalization_type", f"{self.cfg.normalization_type}Pre")
        self._undo_boot.append(lambda: self._take_back(ledger))
        report = ProcessingReport(
            applied=tuple(steps), left_out=MappingProxyType(left_out), max_log_prob_gap=gap
        )
        if verbose:
            print(report)  # noqa: T201 - what was asked for
        return report

    def _take_back(self, ledger: Ledger) -> None:
        ledger.undo()
        if ledger.has_added:
            self.forget_weights()

    def _plan_steps(
        self, ground: Ground, flags: Mapping[str, bool | None]
    ) -> tuple[dict[str, Callable[[Ledger], None]], dict[str, str]]:
        """Return the flags to be carried out and how, and those left out and why."""
        steps: dict[str, Callable[[Ledger], None]] = {}
        left_out: dict[str, str] = {}
        norms = NormFolding(ground) if flags["fold_ln"] is not False else None
        for flag in FLAGS:
            if flags[flag] is False:
                continue
            # Whether there will be value biases depends on whether norms are folded.
            values = ValueBiasFolding(ground, norms if "fold_ln" in steps else None)
            step = {
                "fold_ln": lambda: norms,
                "center_writing_weights": lambda: WriterCentring(ground),
                "center_unembed": lambda: UnembeddingCentring(ground),
                "fold_value_biases": lambda values=values: values,
                "refactor_factored_attn_matrices": lambda values=values: Refactoring(
                    ground, values
                ),
            }[flag]()
            assert step is not None
            obstacle = step.find_obstacle()
            if obstacle is None:
                steps[flag] = step.apply
            elif flags[flag] is None:
                left_out[flag] = obstacle
            else:
                raise ArchitectureError(
                    f"{flag}=True does not hold for {type(self.original_model).__name__}: "
                    f"{obstacle}. Pass {flag}=False, or None to leave it out where it does not "
                    "hold."
                )
        return steps, left_out

    def _check_gap(self, gap: float, applied: tuple[str, ...]) -> None:
        tolerance = _TOLERANCE.get(next(self.parameters()).dtype)
        if tolerance is not None and not gap <= tolerance:
            raise ArchitectureError(
                f"{', '.join(applied)} changed log-probabilities of "
                f"{type(self.original_model).__name__} by up to {gap:.2g} nats, and was taken "
                "back: something reads a part of the model of which its record does not know."
            )
