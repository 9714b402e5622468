"""A contestant of `xlm_ilm.py`: steps of the family ilm, of this workspace or of xlm-core.

    python tools/bench/xlm_ilm_worker.py own|peer

It first tells its versions; then it answers a JSON object a line with another.
"""

import contextlib
import importlib.metadata
import itertools
import json
import random
import sys
import time
from collections.abc import Callable
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
    "max_length": 256,
    "final_layer_without_normalization": True,
}


def own_parts(shape: dict[str, int]) -> Parts:
    from pellucid.families import ilm  # noqa: PLC0415 - one of two environments has it
    from pellucid.xlm.datamodule import SimpleSpaceTokenizer  # noqa: PLC0415 - likewise

    tokenizer = SimpleSpaceTokenizer.for_numbers(shape["ids"])
    kind = ilm.RotaryTransformerILMModelWithStoppingClassification
    model = kind(len(tokenizer), shape["width"], 2, shape["nhead"], **_MODEL)
    collator = (
        ilm.ILMSeq2SeqCollator(tokenizer, 14, input_block_size=28, truncate="max")
        if shape["prompt"]
        else ilm.DefaultILMCollator(tokenizer, shape["suffix"] + 2)
    )
    return model, ilm.ILMLossWithMaskedCE(model, tokenizer), collator


def peer_parts(shape: dict[str, int]) -> Parts:
    import ilm.datamodule_ilm as data  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer
    import ilm.loss_ilm as losses  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer
    import ilm.model_ilm as models  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer
    from xlm.datamodule import (  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer
        SimpleSpaceTokenizer,
    )

    tokenizer: Any = SimpleSpaceTokenizer.for_numbers(shape["ids"])
    kind: Any = models.RotaryTransformerILMModelWithStoppingClassification
    model = kind(len(tokenizer), shape["width"], 2, shape["nhead"], **_MODEL)
    loss: Any = losses.ILMLossWithMaskedCE(model, tokenizer, length_loss="binary_ce")
    loss.configure(SimpleNamespace(device=torch.device("cpu")))
    kinds: Any = data
    collator = (
        kinds.ILMSeq2SeqCollator(tokenizer, None, block_size=14, input_block_size=28)
        if shape["prompt"]
        else kinds.DefaultILMCollator(tokenizer, shape["suffix"] + 2, None)
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


def peak_of(work: Callable[[], None]) -> int:
    """Return the most bytes that are allocated at once during some work."""
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415 - only where it is needed

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as held:
        work()
    kineto: Any = getattr(held.profiler, "kineto_results")  # noqa: B009 - not in its stubs
    events = [event for event in kineto.events() if event.name() == "[memory]"]
    sizes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(itertools.accumulate(sizes))


def weigh(kind: str, size: list[int]) -> int:
    """Return the peak of the loss over logits that a matrix makes of narrow hidden states."""
    from pellucid.families.ilm._insertion import mean_insertion_nats  # noqa: PLC0415 - see above

    n_rows, width, d_vocab = size
    hidden = torch.randn(n_rows * width, 8, requires_grad=True)
    matrix = torch.randn(d_vocab, 8, requires_grad=True)
    slots = torch.ones(n_rows, width, dtype=torch.bool)
    tokens = torch.randint(d_vocab, (n_rows, width // 2))
    places = torch.randint(width, (n_rows, width // 2))

    def lean() -> None:
        mean_insertion_nats(hidden @ matrix.T, slots, tokens, places).mean().backward()

    def dense() -> None:
        flat = (hidden @ matrix.T).view(n_rows, -1).log_softmax(1)
        (-flat.gather(1, places * d_vocab + tokens).mean()).backward()

    return peak_of(lean if kind == "lean" else dense)


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
            if "weigh" in asked:
                answer: dict[str, Any] = {"peak": weigh(asked["weigh"], asked["size"])}
            else:
                name = asked["setting"]
                if name not in steppers:
                    parts = (own_parts if side == "own" else peer_parts)(SHAPES[name])
                    steppers[name] = Stepper(parts, SHAPES[name])
                answer = dict(steppers[name].run(asked["steps"]))
        tell(answer)


def tell(found: dict[str, Any]) -> None:
    print(json.dumps(found), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
