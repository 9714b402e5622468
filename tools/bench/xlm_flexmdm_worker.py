"""A contestant of `xlm_flexmdm.py`: steps of the family flexmdm, of this workspace or of xlm-core.

    python tools/bench/xlm_flexmdm_worker.py own|peer

It first tells its versions; then it answers a JSON object a line with another.
"""

import contextlib
import importlib.metadata
import itertools
import json
import random
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch

Parts = tuple[Any, Any, Any]
"""A model, a loss and a collator."""

SHAPES: dict[str, dict[str, int]] = {
    "star_easy": {"ids": 20, "rows": 64, "prompt": 26, "suffix": 8, "width": 64, "nhead": 4},
    "text": {"ids": 8000, "rows": 8, "prompt": 0, "suffix": 126, "width": 128, "nhead": 4},
}
_MODEL: dict[str, Any] = {
    "dropout": 0.0,
    "activation": "relu",
    "rotary_emb_dim": 16,
    "d_cond": 64,
    "len_predict_type": "expectation",
    "len_head_type": "linear",
}


def own_parts(shape: dict[str, int]) -> Parts:
    from pellucid.families import flexmdm  # noqa: PLC0415 - one of two environments has it
    from pellucid.xlm.datamodule import SimpleSpaceTokenizer  # noqa: PLC0415 - likewise

    tokenizer = SimpleSpaceTokenizer.for_numbers(shape["ids"])
    size = (len(tokenizer), shape["width"], 2, shape["nhead"])
    model = flexmdm.FlexMDMModel(*size, max_length=256, **_MODEL)
    collator = flexmdm.FlexMDMTrainCollator(
        tokenizer,
        14 if shape["prompt"] else shape["suffix"] + 2,
        input_block_size=28 if shape["prompt"] else 0,
        truncate="max",
    )
    return model, flexmdm.FlexMDMLoss(None, model, tokenizer), collator


def peer_parts(shape: dict[str, int]) -> Parts:
    import flexmdm.datamodule_flexmdm as data  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer
    import flexmdm.loss_flexmdm as losses  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer
    import flexmdm.model_flexmdm as models  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer
    import flexmdm.noise_flexmdm as noise  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer
    from xlm.datamodule import (  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer
        SimpleSpaceTokenizer,
    )

    tokenizer: Any = SimpleSpaceTokenizer.for_numbers(shape["ids"])
    kinds: Any = models
    size = (len(tokenizer), shape["width"], 2, shape["nhead"])
    # Its network is as long as its blocks: the loss divides by that.
    length = 46 if shape["prompt"] else shape["suffix"] + 6
    model = kinds.FlexMDMModel(*size, max_length=length, **_MODEL)
    both: Any = noise
    schedule = both.FlexMDMNoiseSchedule(both.LinearSchedule(), both.LinearSchedule())
    loss: Any = losses.FlexMDMLoss(
        noise_schedule=schedule, model=model, tokenizer=tokenizer, insert_loss_fn="expectation"
    )
    loss.configure(SimpleNamespace(device=torch.device("cpu")))
    collators: Any = data
    collator = collators.FlexMDMTrainCollator(
        tokenizer,
        14 if shape["prompt"] else shape["suffix"] + 2,
        28 if shape["prompt"] else 0,
    )
    return model, loss, collator


class Stepper:
    """Makes steps of a family's training.

    Args:
        parts: Of the family.
        shape: Of its examples.
    """

    def __init__(self, parts: Parts, shape: dict[str, int]) -> None:
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
        """Return milliseconds of collating a batch and of a step on it."""
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
            "collate_ms": 1e3 * (collated - began) / steps,
            "step_ms": 1e3 * (ended - collated) / steps,
        }


def main() -> None:
    """Answer until there is nothing more."""
    side = sys.argv[1]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    names = ("torch",) if side == "own" else ("xlm-core", "xlm-models", "torch", "transformers")
    tell({"versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)})
    steppers: dict[str, Stepper] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        # What a package prints would be taken for an answer.
        with contextlib.redirect_stdout(sys.stderr):
            name = asked["setting"]
            if name not in steppers:
                parts = (own_parts if side == "own" else peer_parts)(SHAPES[name])
                steppers[name] = Stepper(parts, SHAPES[name])
            answer = steppers[name].run(asked["steps"])
        tell(answer)


def tell(found: dict[str, Any]) -> None:
    print(json.dumps(found), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
