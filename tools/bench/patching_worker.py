"""One contestant of `patching.py`, in an environment of its own; it needs only what it times.

    python tools/bench/patching_worker.py PACKAGE THREADS SHAPE

PACKAGE is pellucid (which also times the bare forwards, in the same process) or transformer-lens.
SHAPE is layers, width, heads, words and positions, with commas between them. It reads one piece a
line and answers with its seconds of processor time, and what it has computed if asked to.
"""

import atexit
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

Pieces = dict[str, Callable[[], Any]]


def make_model(layers: int, width: int, heads: int, words: int) -> Any:
    """Return a random GPT-2, the same in every process."""
    from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415

    config = GPT2Config(
        n_layer=layers, n_embd=width, n_head=heads, vocab_size=words, n_positions=128,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))
    return model.eval().requires_grad_(False)


def make_tokens(words: int, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a clean prompt and one that differs from it in a token."""
    clean = torch.randint(words, (1, positions), generator=torch.Generator().manual_seed(0))
    corrupted = clean.clone()
    corrupted[0, positions // 4] = (corrupted[0, positions // 4] + 1) % words
    return clean, corrupted


def metric(logits: torch.Tensor) -> torch.Tensor:
    """Return a difference of two logits at the last position."""
    return logits[0, -1, 3] - logits[0, -1, 7]


def by_pellucid(model: Any, clean: torch.Tensor, corrupted: torch.Tensor) -> Pieces:
    """Return what this workspace does, and the forwards that it needs at the least."""
    from pellucid.bridge import TransformerBridge, logit_lens, patching  # noqa: PLC0415
    from pellucid.bridge._analysis._patch_runs import PatchRuns  # noqa: PLC0415

    bridge = TransformerBridge(model)
    cache: Any = bridge.run_with_cache(clean)[1]
    streams = [cache["resid_pre", layer] for layer in range(bridge.cfg.n_layers)]
    stack, n_pos = model.transformer, clean.shape[1]
    limit = PatchRuns(bridge, corrupted).limit
    n_chunks = -(-n_pos // limit)
    size = -(-n_pos // n_chunks)
    chunks = [min(size, n_pos - start) for start in range(0, n_pos, size)]

    def bare() -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for layer, stream in enumerate(streams):
            for rows in chunks:
                x = stream.repeat(rows, 1, 1)
                for block in stack.h[layer:]:
                    x = block(x)
                logits = model.lm_head(stack.ln_f(x))
                found += [metric(row[None]) for row in logits]
        return found

    def bare_whole() -> None:
        for _ in streams:
            for rows in chunks:
                model(corrupted.repeat(rows, 1), use_cache=False)

    def bare_lens() -> None:
        model(clean, use_cache=False)
        for stream in streams:
            model.lm_head(stream)

    return {
        "bare forwards, from the block on": bare,
        "bare forwards, whole": bare_whole,
        "grid": lambda: patching.get_act_patch_resid_pre(bridge, corrupted, cache, metric),
        "bare lens": bare_lens,
        "lens": lambda: logit_lens(bridge, clean, k=1).probs,
    }


def by_transformer_lens(model: Any, clean: torch.Tensor, corrupted: torch.Tensor) -> Pieces:
    """Return what TransformerLens does."""
    from transformer_lens import patching  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from transformer_lens.model_bridge import (  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
        TransformerBridge,
    )

    bridge = TransformerBridge.boot_transformers(
        "gpt2", hf_model=model, tokenizer=_make_tokenizer(), device="cpu"
    )
    _, cache = bridge.run_with_cache(clean)
    return {"grid": lambda: patching.get_act_patch_resid_pre(bridge, corrupted, cache, metric)}


def _make_tokenizer() -> Any:
    """Return a tokenizer of a few made-up words: the peer wants one, nothing here uses it."""
    from tokenizers import Tokenizer, models  # noqa: PLC0415
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: PLC0415

    words = {f"w{number}": number for number in range(8)}
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")),
        unk_token="w0", pad_token="w1", bos_token="w2", eos_token="w3",
    )  # fmt: skip
    # The peer loads it once more, from where it was loaded.
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    made.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def main() -> None:
    """Answer until there is nothing more to read."""
    package, threads, shape = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    layers, width, heads, words, positions = map(int, shape.split(","))
    torch.set_num_threads(threads)
    make = by_pellucid if package == "pellucid" else by_transformer_lens
    with torch.no_grad():
        pieces = make(make_model(layers, width, heads, words), *make_tokens(words, positions))
        print(json.dumps({"pieces": list(pieces), "torch": torch.__version__}), flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            start = time.process_time()
            made = pieces[asked["piece"]]()
            answer = {"s": time.process_time() - start}
            if asked["checks"]:
                answer["made"] = made.tolist()
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
