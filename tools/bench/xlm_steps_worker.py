"""A contestant of `xlm_steps.py`: training steps of a family, of this workspace or of xlm-core.

    python tools/bench/xlm_steps_worker.py own|peer FAMILY

It first tells its versions; then, for each setting and number of steps that it is asked for, what
one step took, and collating a batch for it.
"""

import contextlib
import importlib
import importlib.metadata
import itertools
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch

# Behind the installed packages: that of xlm-core has the name of `xlm.py` beside this script.
sys.path.append(str(Path(__file__).parent))

SHAPES: dict[str, dict[str, int]] = {
    "star_easy": {"ids": 20, "rows": 64, "prompt": 26, "suffix": 8, "width": 64, "nhead": 4},
    "text": {"ids": 8000, "rows": 8, "prompt": 0, "suffix": 126, "width": 128, "nhead": 4},
}
NETWORK: dict[str, Any] = {"dropout": 0.0, "activation": "relu", "rotary_emb_dim": 16}
SIGMA_MAX = 9.2


class Stepper:
    """Makes steps of a family's training.

    Args:
        parts: Its model, loss and collator.
        shape: Of its examples.
    """

    def __init__(self, parts: tuple[Any, Any, Any], shape: dict[str, int]) -> None:
        self._model, self._loss, self._collator = parts
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-4, fused=True)
        draw = random.Random(0)
        length = shape["prompt"] + shape["suffix"]
        rows = [[7 + draw.randrange(shape["ids"]) for _ in range(length)] for _ in range(512)]
        examples = [
            {"prompt_ids": row[: shape["prompt"]], "input_ids": row[shape["prompt"] :]}
            for row in rows
        ]
        self._rows = shape["rows"]
        self._examples = itertools.cycle(examples)

    def run(self, steps: int) -> dict[str, float]:
        """Return milliseconds of processor time, of collating a batch and of a step on it."""
        began = time.process_time()
        batches = [
            self._collator([next(self._examples) for _ in range(self._rows)]) for _ in range(steps)
        ]
        collated = time.process_time()
        for batch in batches:
            self._optimizer.zero_grad()
            self._loss(batch)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimizer.step()
        ended = time.process_time()
        return {
            "collate": 1e3 * (collated - began) / steps,
            "step": 1e3 * (ended - collated) / steps,
        }


def main() -> None:
    """Answer until there is nothing more."""
    side, family = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steppers: dict[str, Stepper] = {}
    # What a package prints would be taken for an answer.
    with contextlib.redirect_stdout(sys.stderr):
        library = importlib.import_module(f"xlm_steps_{side}")
    versions = (f"{name} {importlib.metadata.version(name)}" for name in library.PACKAGES)
    tell({"versions": ", ".join(versions)})
    for line in sys.stdin:
        asked = json.loads(line)
        name = asked["setting"]
        with contextlib.redirect_stdout(sys.stderr):
            try:
                if name not in steppers:
                    parts = library.make_parts(family, SHAPES[name], NETWORK, SIGMA_MAX)
                    steppers[name] = Stepper(parts, SHAPES[name])
                answer: dict[str, Any] = dict(steppers[name].run(asked["steps"]))
            except (RuntimeError, TypeError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
        tell(answer)


def tell(found: dict[str, Any]) -> None:
    """Write an object on a line of its own."""
    print(json.dumps(found), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
