"""Training steps of one family of one library, for `xlm_steps.py`; it needs only what it times.

    python tools/bench/xlm_steps_worker.py LIBRARY FAMILY SIZE

LIBRARY is pellucid or xlm-core, each in an environment of its own. At the start it says how many
weights its network has, and what becomes of prompts with suffixes; then, for every number of steps
that it is sent, what one of them took.
"""

import contextlib
import importlib.metadata
import json
import sys
import time
from typing import Any

import torch

SIZES: dict[str, dict[str, int]] = {
    "star": {"rows": 128, "length": 42, "words": 20, "d_model": 64, "num_layers": 3, "nhead": 4},
    "text": {
        "rows": 16,
        "length": 128,
        "words": 8000,
        "d_model": 256,
        "num_layers": 4,
        "nhead": 4,
    },
}
SIGMA_MAX = 9.2
VERSIONS = {"pellucid": ("torch",), "xlm-core": ("xlm-core", "xlm-models", "torch")}


def mdlm_of_pellucid(tokenizer: Any, size: dict[str, int], shape: dict[str, Any]) -> Any:
    """Return the collator of whole texts, that of suffixes, and the loss with its model."""
    from pellucid.families import mdlm  # noqa: PLC0415 - not there in the other environment
    from pellucid.xlm.noise import ContinuousTimeLogLinear  # noqa: PLC0415

    schedule = ContinuousTimeLogLinear(SIGMA_MAX)
    model = mdlm.MDLMModel(d_cond=128, mask_idx=tokenizer.mask_token_id, **shape)
    return (
        mdlm.DefaultMDLMCollator(tokenizer, size["length"], schedule),
        mdlm.MDLMSeq2SeqTrainCollator(tokenizer, 14, schedule, input_block_size=28),
        mdlm.MDLMLoss(model=model, tokenizer=tokenizer),
    )


def mdlm_of_peer(tokenizer: Any, size: dict[str, int], shape: dict[str, Any]) -> Any:
    """Return the same parts of xlm-core."""
    from mdlm.datamodule_mdlm import (  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
        DefaultMDLMCollator,
        MDLMSeq2SeqTrainCollator,
    )
    from mdlm.loss_mdlm import MDLMLoss  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from mdlm.model_mdlm import MDLMModel  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from mdlm.noise_mdlm import (  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
        ContinuousTimeLogLinearSchedule,
    )

    schedule = ContinuousTimeLogLinearSchedule(0.0, SIGMA_MAX)
    model = MDLMModel(d_cond=128, mask_idx=tokenizer.mask_token_id, **shape)
    loss = MDLMLoss(loss_on_padding=True, model=model, tokenizer=tokenizer)
    place: Any = type("Place", (), {"device": torch.device("cpu")})
    loss.configure(place)
    whole = DefaultMDLMCollator(tokenizer, size["length"], schedule)

    def suffixes(examples: list[dict[str, Any]]) -> Any:
        # Made when it is asked for: it may be that it cannot be.
        return MDLMSeq2SeqTrainCollator(tokenizer, 14, schedule, input_block_size=28)(examples)

    return whole, suffixes, loss


PARTS = {("pellucid", "mdlm"): mdlm_of_pellucid, ("xlm-core", "mdlm"): mdlm_of_peer}


def tokenizer_of(library: str, words: int) -> Any:
    """Return the library's tokenizer of numbers."""
    if library == "pellucid":
        from pellucid.xlm.datamodule import SimpleSpaceTokenizer  # noqa: PLC0415
    else:
        from xlm.datamodule import (  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
            SimpleSpaceTokenizer,
        )
    return SimpleSpaceTokenizer.for_numbers(words)


def examples_of(size: dict[str, int]) -> list[dict[str, list[int]]]:
    """Return texts of random words, that fill their block up to BOS and EOS."""
    generator = torch.Generator().manual_seed(0)
    shape = (size["rows"], size["length"] - 2)
    ids = torch.randint(7, 7 + size["words"], shape, generator=generator).tolist()
    return [{"input_ids": row} for row in ids]


class Steps:
    """Steps of training on one batch of texts, collated anew each time."""

    def __init__(self, library: str, family: str, size: dict[str, int]) -> None:
        tokenizer = tokenizer_of(library, size["words"])
        names = ("d_model", "num_layers", "nhead")
        shape: dict[str, Any] = {name: size[name] for name in names}
        shape |= {"num_embeddings": size["words"] + 7, "dim_feedforward": 4 * size["d_model"]}
        shape |= {"dropout": 0.1, "activation": "relu", "rotary_emb_dim": 16, "max_length": 256}
        shape |= {"padding_idx": 0}
        torch.manual_seed(0)
        self.collator, self.suffixes, self.loss = PARTS[library, family](tokenizer, size, shape)
        self.examples = examples_of(size)
        self.weights = list(self.loss.model.parameters())
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-4, fused=True)

    def run(self, count: int) -> float:
        """Make steps, and return the milliseconds of processor time of one."""
        began = time.process_time()
        for _ in range(count):
            self.optimizer.zero_grad()
            self.loss(self.collator(self.examples))["loss"].backward()
            torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
            self.optimizer.step()
        return 1e3 * (time.process_time() - began) / count

    def try_suffixes(self) -> str:
        """Return what becomes of prompts with suffixes: "trains", or the error."""
        pairs = [{"prompt_ids": [8] * 26, "input_ids": [9] * 8}] * 4
        try:
            self.loss(self.suffixes(pairs))["loss"].backward()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "trains"


def main() -> None:
    library, family, size = sys.argv[1:]
    torch.set_num_threads(1)
    # What a package prints would be taken for an answer.
    with contextlib.redirect_stdout(sys.stderr):
        steps = Steps(library, family, SIZES[size])
        found = {
            "weights": sum(weight.numel() for weight in steps.weights),
            "suffixes": steps.try_suffixes(),
            "versions": [
                f"{name} {importlib.metadata.version(name)}" for name in VERSIONS[library]
            ],
        }
    print(json.dumps(found), flush=True)
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            spent = steps.run(json.loads(line)["steps"])
        print(json.dumps({"ms": spent}), flush=True)


if __name__ == "__main__":
    main()
