"""What a harness keeps of itself on disk, and how it comes back from there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
from omegaconf import OmegaConf
from torch import Tensor, nn

from pellucid.core import CheckpointError, UnknownNameError
from pellucid.xlm import _hub, _weights
from pellucid.xlm._checkpoint_io import read_checkpoint
from pellucid.xlm._ema import averaged_weights, copy_weights
from pellucid.xlm._finite import FiniteWatch
from pellucid.xlm._step_log import StepLog

_CFG = "cfg"
_KINDS = ("auto", "ema", "raw")


class CheckpointedModule(lightning.LightningModule):
    """A Lightning module with a model and a configuration, both of which its checkpoints hold."""

    cfg: Any
    model: nn.Module
    _finite: FiniteWatch
    _step_log: StepLog
    weights_step: int = 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to keep weights that are no numbers; keep configuration, data position and log."""
        self._finite.check()
        steps, epoch = self.trainer.global_step, self.current_epoch
        self._step_log.save(checkpoint, steps=steps, epoch=epoch)
        checkpoint[_CFG] = OmegaConf.to_container(self.cfg, resolve=False)
        loops = checkpoint.get("loops", {})
        held = loops.get("fit_loop", {}).get("state_dict", {})
        if held.get("combined_loader"):
            held["combined_loader"] = [self._data_position(at) for at in held["combined_loader"]]

    def _data_position(self, yielded: dict[str, Any]) -> dict[str, Any]:
        # What was trained on, not what Lightning has taken from the loader ahead: of a loader
        # without a length, it takes a batch to know whether there is one.
        if self.trainer.num_training_batches == float("inf"):
            return {**yielded, "batch": max(yielded["batch"] - 1, 0)}
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        if progress.is_last_batch:
            return {"epoch": self.current_epoch + 1, "batch": 0}
        return {"epoch": self.current_epoch, "batch": progress.current.processed}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say in one line what does not fit, before Lightning says it in hundreds."""
        state = checkpoint["state_dict"]
        _weights.check_state(self, state, source="the checkpoint")
        self._step_log.load(checkpoint)

    def on_train_start(self) -> None:
        """Log again what was logged of the step that a run resumes after."""
        self._step_log.replay(self.trainer.loggers)

    @classmethod
    def from_checkpoint(
        cls: Any,
        path: str | Path,
        cfg: Mapping[str, Any] | None = None,
        tokenizer: Any = None,
        *,
        datamodule: Any = None,
        weights: str = "auto",
        map_location: Any = "cpu",
    ) -> Any:
        """Build a harness with the weights of a checkpoint.

        Args:
            path: A `.ckpt` file.
            cfg: The configuration; the one that the checkpoint holds if None.
            tokenizer: As for the constructor.
            datamodule: As for the constructor.
            weights: "ema" for the averaged weights, "raw" for the others, "auto" for the averaged
                ones where there are any.
            map_location: Where to put the harness.

        Raises:
            CheckpointError: The file is missing, damaged, of another model, or has no average.
            UnknownNameError: `weights` is neither of the three.
        """
        checkpoint = read_checkpoint(path, map_location="cpu")
        harness = cls(cfg if cfg is not None else checkpoint[_CFG], tokenizer, datamodule)
        harness.adopt(checkpoint, weights=weights, source=str(path))
        return harness.to(map_location)

    def adopt(self, checkpoint: Mapping[str, Any], *, weights: str, source: str) -> None:
        """Take the weights of a checkpoint that was read; see `from_checkpoint`."""
        if weights not in _KINDS:
            raise UnknownNameError("kind of weights", weights, _KINDS)
        average = averaged_weights(dict(checkpoint))
        if weights == "ema" and average is None:
            raise CheckpointError(f"{source} holds no averaged weights; use weights=raw")
        _weights.adopt_state(self, checkpoint["state_dict"], source=source)
        if weights != "raw" and average is not None:
            copy_weights(self, average)
        self.weights_step = int(checkpoint.get("global_step", 0))

    def extract_model_weights(self) -> dict[str, Tensor]:
        """Return the model's weights by name, detached, not copied."""
        return {name: value.detach() for name, value in self.model.state_dict().items()}

    def save_model_weights(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model's weights as safetensors.

        Raises:
            ArgumentError: The file is there already, and `overwrite` is False.
        """
        return _weights.save_weights(self.model, path, overwrite=overwrite)

    def load_model_weights(self, path: str | Path, *, strict: bool = True) -> None:
        """Read the model's weights from safetensors.

        Raises:
            CheckpointError: The file is missing, damaged, or of another model.
        """
        _weights.load_weights(self.model, path, strict=strict)

    def load_model_from_hub(self, repo_id: str, *, revision: str | None = None) -> None:
        """Download weights from the Hugging Face hub into the model.

        Raises:
            MissingDependencyError: The extra `hub` is not installed.
            CheckpointError: The weights are of another model.
        """
        _hub.load_from_hub(self.model, repo_id, revision=revision)

    def push_to_hub(self, repo_id: str, *, experiment: str = "none", private: bool = True) -> str:
        """Upload weights, configuration and a card; returns the address of the commit.

        Raises:
            MissingDependencyError: The extra `hub` is not installed.
        """
        return _hub.push_to_hub(self, repo_id, experiment=experiment, private=private)


__all__ = ["CheckpointedModule"]
