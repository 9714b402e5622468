"""One contestant of `bridge.py`, in an environment of its own; it needs only what it times.

    python tools/bench/bridge_worker.py PACKAGE THREADS

PACKAGE is pellucid (which also times transformers and hand-written hooks, in the same process),
transformer-lens or nnsight. It reads one JSON object a line, a size, a piece and how often, and
answers each with the milliseconds of processor time that one run of the piece took.
"""

import atexit
import contextlib
import copy
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

# Width, feed-forward width, heads, key heads, words, batch and positions; eight layers.
SIZES = {
    "floor": (64, 172, 8, 4, 512, 1, 8),
    "1 x 128": (512, 1376, 8, 4, 4096, 1, 128),
    "1 x 512": (512, 1376, 8, 4, 4096, 1, 512),
}
N_LAYERS = 8
N_PROMPT, N_NEW = 16, 32

Pieces = dict[str, Callable[[], Any]]


def make_model(width: int, inner: int, heads: int, kv: int, words: int, layers: int) -> Any:
    """Return a random Llama, the same in every process."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415 - after the warnings are off

    config = LlamaConfig(
        vocab_size=words, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=1024,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def by_hand(model: Any, ids: torch.Tensor) -> Pieces:
    """Return what transformers does alone, and with torch hooks that a careful user would write."""

    def run(modules: Any, hook: Callable[..., Any]) -> Any:
        handles = [module.register_forward_hook(hook) for module in modules]
        try:
            return model(input_ids=ids).logits
        finally:
            for handle in handles:
                handle.remove()

    def keep(modules: Any) -> list[Any]:
        kept: list[Any] = []
        run(modules, lambda module, given, output: kept.append((given, output)))
        return kept

    leaves = [module for module in model.modules() if not isinstance(module, torch.nn.ModuleList)]
    prompt = ids[:1, :N_PROMPT]
    generated = {"max_new_tokens": N_NEW, "min_new_tokens": N_NEW, "do_sample": False}
    return {
        "transformers: forward": lambda: model(input_ids=ids).logits,
        "transformers: generate": lambda: model.generate(prompt, **generated),
        "hand-written: one edit": lambda: run(
            [model.model.layers[3]],
            lambda module, given, output: output * 0.9,
        ),
        "hand-written: residual": lambda: keep(model.model.layers),
        "hand-written: all": lambda: keep(leaves),
    }


def pellucid(model: Any, ids: torch.Tensor) -> Pieces:
    """Return the pieces of this workspace, and those without it."""
    from pellucid.bridge import TransformerBridge  # noqa: PLC0415 - only here

    bridge = TransformerBridge(model)
    residual = [f"blocks.{layer}.hook_resid_post" for layer in range(N_LAYERS)]

    def read_all() -> list[torch.Tensor]:
        return list(bridge.run_with_cache(ids)[1].values())

    return {
        **by_hand(model, ids),
        "forward": lambda: bridge(ids),
        "one edit": lambda: bridge.run_with_hooks(
            ids, fwd_hooks=[("blocks.3.hook_resid_post", lambda value, hook: value * 0.9)]
        ),
        "residual": lambda: bridge.run_with_cache(ids, names_filter=residual),
        "all": lambda: bridge.run_with_cache(ids),
        "all, read": read_all,
        "generate": lambda: bridge.generate(
            ids[:1, :N_PROMPT], max_new_tokens=N_NEW, do_sample=False, stop_at_eos=False,
            verbose=False,
        ),
    }  # fmt: skip


def transformer_lens(model: Any, ids: torch.Tensor) -> Pieces:
    """Return the pieces of TransformerLens' bridge."""
    from transformer_lens.model_bridge import TransformerBridge  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer

    bridge: Any = TransformerBridge.boot_transformers(
        "gpt2", hf_model=copy.deepcopy(model), tokenizer=_make_tokenizer(model.config.vocab_size)
    )
    residual = [f"blocks.{layer}.hook_resid_post" for layer in range(N_LAYERS)]
    return {
        "forward": lambda: bridge(ids),
        "one edit": lambda: bridge.run_with_hooks(
            ids, fwd_hooks=[("blocks.3.hook_resid_post", lambda value, hook: value * 0.9)]
        ),
        "residual": lambda: bridge.run_with_cache(ids, names_filter=residual),
        "all": lambda: bridge.run_with_cache(ids),
        "generate": lambda: bridge.generate(
            ids[:1, :N_PROMPT], max_new_tokens=N_NEW, do_sample=False, stop_at_eos=False,
            verbose=False,
        ),
    }  # fmt: skip


def _make_tokenizer(n_words: int) -> Any:
    from tokenizers import Tokenizer, models  # noqa: PLC0415 - only here
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: PLC0415

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(n_words)}, unk_token="w0"))
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="w0", pad_token="w0", bos_token="w1", eos_token="w2"
    )
    # One that was not loaded from somewhere has no name, which is asked for, and loaded again.
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    made.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def nnsight(model: Any, ids: torch.Tensor) -> Pieces:
    """Return the pieces of nnsight."""
    from nnsight import NNsight, save  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer

    traced: Any = NNsight(model)

    def forward() -> Any:
        with traced.trace(ids):
            logits = traced.output.logits.save()
        return logits  # noqa: RET504 - there only is one after the block

    def edit() -> Any:
        with traced.trace(ids):
            traced.model.layers[3].output = traced.model.layers[3].output * 0.9
            logits = traced.output.logits.save()
        return logits  # noqa: RET504 - there only is one after the block

    def residual() -> Any:
        with traced.trace(ids):
            kept = save([layer.output for layer in traced.model.layers])
        return kept  # noqa: RET504 - as above

    return {"forward": forward, "one edit": edit, "residual": residual}


def main() -> None:
    """Answer one request a line until there are no more."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(int(sys.argv[2]))
    builders = {f.__name__.replace("_", "-"): f for f in (pellucid, transformer_lens, nnsight)}
    build = builders[sys.argv[1]]
    answers = sys.stdout
    # What the packages print would be taken for an answer.
    with contextlib.redirect_stdout(sys.stderr), torch.no_grad():
        pieces: dict[str, Pieces] = {}
        for size, (width, inner, heads, kv, words, batch, n_pos) in SIZES.items():
            draw = torch.Generator().manual_seed(0)
            ids = torch.randint(3, words, (batch, max(n_pos, N_PROMPT)), generator=draw)[:, :n_pos]
            pieces[size] = build(make_model(width, inner, heads, kv, words, N_LAYERS), ids)
        hello = {
            "pieces": {s: list(held) for s, held in pieces.items()},
            "torch": torch.__version__,
        }
        print(json.dumps(hello), file=answers, flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            piece = pieces[asked["size"]][asked["piece"]]
            result = None
            began = time.process_time()
            for _ in range(asked["n"]):
                result = piece()
            used = 1000 * (time.process_time() - began) / asked["n"]
            answer: dict[str, Any] = {"cpu": used}
            if result is not None and asked.get("checks"):
                answer["logits"] = result[0, -1, :8].tolist()
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
