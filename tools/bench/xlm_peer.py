"""The harness of xlm-core for `xlm.py`, in an environment of its own; it needs only what it times.

    python tools/bench/xlm_peer.py FAMILY DIRECTORY GRAPHS MODEL_OVERRIDE...

FAMILY is arlm or mlm; runs and data are written to DIRECTORY. It trains by xlm-core's own command
line and configuration of star_easy. After a block of its harness's steps and one of plain steps it
writes a line, and goes on when it is sent one; when there are no more it writes what it measured.

What is other than the defaults of xlm-core: star graphs drawn here by its own generator, because
its configuration would download them; batches read in the training process, so that the time they
take is seen; neither validation, nor test, nor a checkpoint on the way.
"""

import contextlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

# Behind the installed packages: that of xlm-core has the name of `xlm.py` beside this script.
sys.path.append(str(Path(__file__).parent))
from xlm_alternation import Alternation

_NEVER = 10**9
_VERSIONS = ("xlm-core", "torch", "lightning", "transformers")


class AnsweringAlternation(Alternation):
    """An alternation that goes on when it is told to by its standard input."""

    def __init__(self) -> None:
        super().__init__(_answer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Tell what was measured."""
        del trainer, pl_module
        versions = (f"{name} {importlib.metadata.version(name)}" for name in _VERSIONS)
        _tell({**self.summary(), "versions": ", ".join(versions)})


def overrides(family: str) -> list[str]:
    """Return the arguments of xlm-core's command line, without the model's sizes."""
    return [
        "job_type=train",
        "job_name=bench",
        f"experiment=star_easy_{family}",
        f"trainer_strategy={'single_device' if torch.cuda.is_available() else 'cpu'}",
        "resume_from_checkpoint=false",
        "num_dataloader_workers=0",
        "num_dataset_workers=0",
        "dataloader_prefetch_factor=null",
        "dataloader_pin_memory=false",
        f"trainer.max_steps={_NEVER}",
        "trainer.num_sanity_val_steps=0",
        "+trainer.limit_val_batches=0",
        "+trainer.limit_test_batches=0",
        f"callbacks.checkpoint_every_n_steps.every_n_train_steps={_NEVER}",
        "+callbacks.alternation._target_=xlm_peer.AnsweringAlternation",
    ]


def draw_graphs(count: int) -> Any:
    """Return star graphs of the size easy, as what xlm-core would have downloaded."""
    from datasets import (  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - not with us
        Dataset,
    )
    from xlm.tasks.star import (  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer
        SimpleStarGraphGenerator,
    )

    generator: Any = SimpleStarGraphGenerator(count, degree=3, pathlength=5, vocab_size=20)
    return Dataset.from_list(
        [
            {
                "edge_list": [[int(node) for node in edge] for edge in graph["edge_list"]],
                "source": int(graph["source"]),
                "goal": int(graph["goal"]),
                "path": [int(node) for node in graph["path"]],
            }
            for graph in generator.graphs()
        ]
    )


def _answer() -> bool:
    _tell({})
    return bool(sys.stdin.readline())


def _tell(found: dict[str, Any]) -> None:
    print(json.dumps(found), file=sys.__stdout__, flush=True)


def main() -> None:
    """Train until there is nothing more to answer."""
    family, directory, graphs, *model = sys.argv[1:]
    torch.set_num_threads(1)
    os.environ |= {"DATA_DIR": str(Path(directory) / "data"), "LOG_DIR": directory}
    # What the package prints would be taken for an answer.
    with contextlib.redirect_stdout(sys.stderr):
        from xlm.commands import lightning_main  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer
        from xlm.datamodule import DatasetManager  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer

        def download(manager: Any, **_: Any) -> Any:
            return draw_graphs(int(graphs) if manager.full_name.endswith("/train") else 64)

        # The original would reach for the network.
        DatasetManager._download = download
        sys.argv = ["xlm", *overrides(family), *model]
        lightning_main.main()


if __name__ == "__main__":
    main()
