"""Train a converted model: `python -m pellucid.tptt.train --help`.

A run directory holds `config.json`, `train.jsonl` (an object for each entry of the log),
checkpoints that `--resume` goes on from, and in the end `model/`, which `AutoModelForCausalLM`
reads.
"""

import copy
import json
import random
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from pellucid.core import ArgumentError, CheckpointError, MissingDependencyError, PellucidError
from pellucid.tptt._base_model import load_base_model
from pellucid.tptt._callbacks import LiZACallback, SaveBestModelCallback
from pellucid.tptt._checkpoint import WEIGHTS, load_weights
from pellucid.tptt._config import TpttConfig
from pellucid.tptt._injection import list_liza
from pellucid.tptt._lora import make_lora_config
from pellucid.tptt._model import TpttModel, find_lost
from pellucid.tptt._train_config import TrainConfig, read_command_line
from pellucid.tptt._train_data import IGNORED, PadRows, read_data

__all__ = ["TpttTrainer", "TrainConfig", "build_model", "main", "train"]

LOG = "train.jsonl"
CONFIG = "config.json"
MODEL = "model"


class TpttTrainer(Trainer):
    """A Trainer that reads checkpoints of converted models, and can distil.

    Args:
        *args: As for a Trainer.
        teacher: Whose distributions are to be learnt; the labels are, when omitted.
        temperature: Of these distributions.
        **kwargs: As for a Trainer.
    """

    def __init__(
        self, *args: Any, teacher: Any = None, temperature: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        # The share must be in an entry before services are told of it.
        self.callback_handler.callbacks.sort(key=lambda each: not isinstance(each, LiZACallback))
        self._teacher = None if teacher is None else teacher.to(self.args.device)
        self._temperature = temperature

    def compute_loss(  # pyright: ignore[reportIncompatibleMethodOverride] - names are the same
        self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Return the loss of a batch: cross entropy with its labels, or to the teacher."""
        if self._teacher is None:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        given = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**given)
        with torch.no_grad():
            wanted = self._teacher(**given, use_cache=False).logits
        counted = inputs["labels"][:, 1:] != IGNORED
        student, teacher = (
            (logits[:, :-1][counted].float() / self._temperature).log_softmax(-1)
            for logits in (outputs.logits, wanted)
        )
        loss = torch.nn.functional.kl_div(
            student, teacher, log_target=True, reduction="batchmean"
        ) * (self._temperature**2)
        return (loss, outputs) if return_outputs else loss

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        _load_exactly(Path(resume_from_checkpoint, WEIGHTS), self.model if model is None else model)


class _Log(TrainerCallback):
    """Writes each entry of the log as a line of JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop what was logged after the checkpoint that a run goes on from."""
        kept: list[str] = []
        if state.global_step and self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if _step_of(line) <= state.global_step]
        self._path.write_text("".join(kept), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write an entry."""
        entry = {"step": state.global_step, **(logs or {})}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class _TimeLimit(TrainerCallback):
    """Ends a run after some minutes."""

    def __init__(self, minutes: float) -> None:
        self._minutes = minutes
        self._begin = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to count."""
        self._begin = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say whether to stop."""
        if time.monotonic() - self._begin >= 60 * self._minutes:
            control.should_training_stop = True


def train(config: TrainConfig) -> tuple[Any, Any]:
    """Convert a model and train it.

    Random states of the process are left as they were.

    Args:
        config: What to do.

    Returns:
        The model in eval mode, on the device it was trained on, and its tokenizer.

    Raises:
        ArgumentError: (a ValueError) If the config has no meaning, or its directory holds a run
            and it does not resume.
        MissingDependencyError: If accelerate, peft for adapters, or what a service of `report_to`
            needs is not installed.
    """
    _check_services(config.report_to)
    with _kept_random_states():
        torch.manual_seed(config.seed)
        model, tokenizer, teacher = build_model(config)
        rows, held_out = read_data(
            config.data,
            config.eval_data,
            tokenizer,
            max_length=config.max_length,
            model=config.model,
        )
        out = Path(config.out)
        last = _prepare_folder(out, config)
        callbacks = _make_callbacks(model, config, out)
        trainer = TpttTrainer(
            model,
            _make_arguments(config, out),
            train_dataset=rows,
            eval_dataset=held_out,
            data_collator=PadRows(tokenizer.pad_token_id or 0),
            callbacks=callbacks,
            teacher=teacher,
            temperature=config.temperature,
        )
        trainer.train(resume_from_checkpoint=last)
        best = _find_last(out) if config.save_best else None
        if best is not None:
            _load_exactly(Path(best, WEIGHTS), model)
    model.save_pretrained(str(out / MODEL))
    tokenizer.save_pretrained(str(out / MODEL))
    return model.eval(), tokenizer


def build_model(config: TrainConfig) -> tuple[TpttModel, Any, Any]:
    """Return the converted model of a run, its tokenizer, and the teacher if it is to distil.

    Raises:
        ArgumentError: (a ValueError) If the config has no meaning for the model.
    """
    base, tokenizer = load_base_model(config.model)
    if list_liza(base):
        raise ArgumentError(
            f"{config.model!r} has linear attention already. Begin with the model it was made of."
        )
    teacher = copy.deepcopy(base).requires_grad_(False) if config.objective == "distill" else None
    suffixes = config.target_modules or None
    lora = None
    if config.lora_rank:
        lora = make_lora_config(
            base,
            config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            adapted=config.lora_targets,
            attention=suffixes,
        )
    made = TpttConfig(
        base.config,
        base_model_name=config.model,
        target_modules_names=suffixes,
        force_attn_implementation="sdpa",
        operator_mode=config.operator_mode,
        mag_weight=config.mag_weight,
        max_chunk_size=config.max_chunk_size,
        max_self_attn_length=config.max_self_attn_length,
        cross_gate=config.cross_gate,
        base_scale_attn=config.base_scale_attn,
        lora_config=lora,
    )
    return TpttModel(made, backbone=base), tokenizer, teacher


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as a command line says.

    The exit code is 2 for what a user can put right, and 130 for a run that ctrl-C stopped.
    """
    try:
        config = read_command_line(sys.argv[1:] if arguments is None else arguments)
    except PellucidError as error:
        return _complain(error)
    try:
        train(config)
    except PellucidError as error:
        return _complain(error)
    except KeyboardInterrupt:
        last = _find_last(Path(config.out))
        # a bar of progress may stand in the line
        from_where = "the beginning, for want of a checkpoint" if last is None else repr(last)
        sys.stderr.write(
            "\npellucid.tptt.train: stopped. With --resume the same command goes on from "
            f"{from_where}.\n"
        )
        return 130
    sys.stdout.write(f"model: {Path(config.out, MODEL)}\n")
    return 0


def _complain(error: PellucidError) -> int:
    sys.stderr.write(f"pellucid.tptt.train: {' '.join(str(error).split())}\n")
    return 2


def _prepare_folder(out: Path, config: TrainConfig) -> str | None:
    """Write the config, and return the checkpoint to go on from."""
    last = _find_last(out)
    if not config.resume and (last is not None or (out / CONFIG).exists()):
        raise ArgumentError(f"{str(out)!r} holds a run already. Add --resume, or change --out.")
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG).write_text(json.dumps(config.to_mapping(), indent=1) + "\n", encoding="utf-8")
    return last


def _find_last(out: Path) -> str | None:
    """Return the last checkpoint that is whole; the state of the Trainer is written last."""
    found: dict[int, str] = {}
    for path in out.glob("checkpoint-*/trainer_state.json"):
        with suppress(ValueError, OSError):  # a kill cut it short
            found[int(json.loads(path.read_text(encoding="utf-8"))["global_step"])] = str(
                path.parent
            )
    return found[max(found)] if found else None


def _make_callbacks(model: Any, config: TrainConfig, out: Path) -> list[TrainerCallback]:
    share = LiZACallback(
        model,
        config.mag_schedule,
        initial_weight=config.mag_initial,
        final_weight=config.mag_weight,
        transition_step=config.mag_steps,
    )
    callbacks: list[TrainerCallback] = [share, _Log(out / LOG)]
    if config.max_minutes is not None:
        callbacks.append(_TimeLimit(config.max_minutes))
    return [*callbacks, SaveBestModelCallback()] if config.save_best else callbacks


def _check_services(names: Sequence[str]) -> None:
    """Check that the Trainer can report to services, before anything is made for it."""
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ArgumentError(
                f"the Trainer reports to no service {name!r}. report_to takes "
                f"{', '.join(INTEGRATION_TO_CALLBACK)}."
            )
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (ImportError, RuntimeError) as error:
            raise MissingDependencyError(
                f"report_to {name!r} needs a package that is not installed: {error}"
            ) from error


def _make_arguments(config: TrainConfig, out: Path) -> TrainingArguments:
    try:
        return TrainingArguments(
            str(out),
            max_steps=config.steps,
            per_device_train_batch_size=config.batch_size,
            per_device_eval_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            lr_scheduler_type=config.schedule,
            warmup_steps=config.warmup_steps,
            weight_decay=config.weight_decay,
            logging_steps=config.log_every,
            eval_strategy="steps",
            eval_steps=config.eval_every,
            save_strategy="steps",
            save_steps=config.save_every,
            save_total_limit=2,
            seed=config.seed,
            report_to=list(config.report_to),
            use_cpu=config.device == "cpu",
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            label_names=["labels"],
            prediction_loss_only=True,
        )
    except ImportError as error:
        raise MissingDependencyError(
            "training needs accelerate. Install pellucid-tptt[train]."
        ) from error
    except ValueError as error:
        raise ArgumentError(f"the Trainer refuses the config: {error}") from error


def _load_exactly(path: Path, model: Any) -> None:
    missing, unexpected = load_weights(path, model.backbone)
    lost = find_lost(model, missing)
    if lost or unexpected:
        raise CheckpointError(
            f"{str(path)!r} does not fit the model: it lacks {lost!r} and has {unexpected!r} "
            "beside. Train with the options that the run began with."
        )


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except ValueError:  # a line that a kill cut short
        return sys.maxsize


@contextmanager
def _kept_random_states() -> Generator[None]:
    """Give the process its random states back; a Trainer seeds all of them."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


if __name__ == "__main__":
    sys.exit(main())
