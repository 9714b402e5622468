"""The `xlm` command: what stands on the line, and where errors become one line and an exit code."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

# Everything else is imported when a job runs: torch and Lightning take seconds.

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

HELP = """\
xlm: train, evaluate and sample language models, autoregressive or not.

usage: xlm job_type=JOB job_name=NAME experiment=EXPERIMENT [debug=OPTION] [KEY=VALUE ...]
       xlm families | doctor [FAMILY]
       xlm -m KEY=VALUE1,VALUE2 ...

jobs
  train               fit, then test; resumes the run of that name if there is one
  eval                measure a checkpoint (eval.ckpt_path=PATH eval.split=test|val)
  generate            sample from a checkpoint (generation.ckpt_path=PATH)
  prepare_data        download and preprocess only
  extract_checkpoint  checkpoint to safetensors (extract.ckpt_path=PATH extract.out=PATH)
  push_to_hub         upload (hub.repo_id=OWNER/NAME; needs the extra hub)
  name, print_predictor_params

the most used settings
  model=nano_arlm                     another size: nano_, micro_, tiny_, small_
  trainer_strategy=cpu                or single_device (default), ddp, fsdp
  trainer.max_steps=1000              any key of the configuration can be set
  per_device_batch_size=64  seed=1  compile=true
  resume_checkpoint_path=PATH         resume from there; resume_from_checkpoint=false starts anew
  eval.weights=ema|raw                which weights of a checkpoint (also generation.weights)
  paths.log_dir=logs                  a run writes to logs/JOB_NAME

debug
  debug=smoke                         five steps of a nano model: does everything run?
  debug=overfit                       learn eight examples by heart, in a minute
  debug=small_data, print_predictions

options
  -m, --multirun      run every combination, by a launcher of Hydra
  --config-dir DIR    look for configurations there too; may be given several times
  --cfg               print the composed configuration and stop
  --debug             show the traceback of every error
  -h, --help; --version

examples
  xlm job_type=train job_name=first experiment=star_easy_arlm debug=smoke
  xlm job_type=train job_name=star experiment=star_easy_mlm trainer.max_steps=20000
  xlm job_type=eval job_name=star experiment=star_easy_mlm
  xlm families
  xlm doctor mlm                      build its experiments, and try a batch of each
"""


def main() -> None:
    """Run the command with the arguments of the process, and end the process."""
    sys.exit(run(sys.argv[1:]))


def push_main() -> None:
    """Run `xlm-push-to-hub`: the job `push_to_hub`."""
    sys.exit(run(["job_type=push_to_hub", *sys.argv[1:]]))


def run(arguments: Sequence[str]) -> int:
    """Run the command.

    What a user can put right is told in one line on stderr; anything else keeps its traceback.

    Args:
        arguments: What stands behind `xlm` on the command line.

    Returns:
        The exit code: 0, 1 if the doctor found something, 2 for bad input, 130 after Ctrl-C.
    """
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(HELP, end="")  # noqa: T201
        return 0
    if "--version" in arguments:
        print(f"xlm {version('pellucid-xlm')}")  # noqa: T201
        return 0
    try:
        return _dispatch([argument for argument in arguments if argument != "--debug"])
    except KeyboardInterrupt:
        print("xlm: interrupted.", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    except Exception as error:
        message = _explain(error)
        if message is None or "--debug" in arguments:
            raise
        print(f"xlm: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
        return EXIT_BAD_INPUT


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] in (["families"], ["doctor"]) and len(arguments) <= 2:
        from pellucid.xlm import _doctor  # noqa: PLC0415

        if arguments == ["families"]:
            return _doctor.show_families()
        if arguments[0] == "doctor":
            return _doctor.examine(arguments[1]) if arguments[1:] else _doctor.diagnose()
    directories, rest = _take_directories(arguments)
    _check_form(rest)
    if "-m" in rest or "--multirun" in rest:
        from pellucid.xlm import _sweep  # noqa: PLC0415

        return _sweep.sweep(
            [each for each in rest if each not in ("-m", "--multirun")], directories
        )
    from pellucid.xlm._command import run_command  # noqa: PLC0415

    overrides = [each for each in rest if each != "--cfg"]
    return run_command(overrides, directories, only_print="--cfg" in rest)


def _take_directories(arguments: list[str]) -> tuple[list[str], list[str]]:
    directories: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--config-dir":
            directories.append(next(waiting, ""))
        elif argument.startswith("--config-dir="):
            directories.append(argument.partition("=")[2])
        else:
            rest.append(argument)
    return directories, rest


def _check_form(arguments: list[str]) -> None:
    known = ("-m", "--multirun", "--cfg")
    for argument in arguments:
        if argument not in known and ("=" not in argument or argument.startswith("-")):
            if argument.startswith("~"):
                continue
            from pellucid.core import ArgumentError  # noqa: PLC0415

            raise ArgumentError(
                f"{argument!r} is neither KEY=VALUE nor a command (families, doctor); "
                "see xlm --help"
            )


def _explain(error: BaseException) -> str | None:
    """Return what to tell the user; None for what no user can put right."""
    # Whoever raises one has imported this module, and nobody shall wait for it otherwise.
    core: Any = sys.modules.get("pellucid.core")
    if core is not None and isinstance(error, core.PellucidError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename!r}: {error.strerror}. Correct the path, or allow access to it."
    return None


__all__ = ["main", "push_main", "run"]
