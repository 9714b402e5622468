"""Times the pieces of a GCG step on the CPU, the Hugging Face backend against plain PyTorch.

    uv run python tools/bench/hf_gcg.py [--candidates 128 512] [--repeats 5] [--batch-size 64]

A random Llama of 4 layers, width 256 and a vocabulary of 4096; 18 tokens before the trigger, 20 in
it, 20 in the target. The hand-written code keeps the prefix's keys and values, asks for the
target's logits alone, and works in chunks of 64. All contestants run in turn within each repeat, so
that what else the machine does hits them alike; ratios are to the hand-written time of the same
repeat. Both sides are checked to give the same numbers before anything is timed.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER, SliceKey, Targets
from pellucid.hf import LMHFModel
from pellucid.losses import PrefillCELoss
from pellucid.testing import tiny_tokenizer

N_PREFIX, N_TRIGGER, N_TARGET, N_VOCAB = 18, 20, 20, 4096
CHUNK = 64
TOLERANCE = 1e-4

Contestants = dict[str, Callable[[], Any]]


class HandWritten:
    """What a careful user would write for one template."""

    def __init__(self, model: Any, before: Tensor, after: Tensor, target: Tensor) -> None:
        self.model, self.target = model, target
        self.tail = torch.cat([after, target])
        self.table = model.get_input_embeddings().weight.detach()
        with torch.no_grad():
            self.prefix = model(input_ids=before[None], use_cache=True).past_key_values

    def losses(self, ids: Tensor) -> Tensor:
        """Return the loss of each candidate."""
        with torch.no_grad():
            return torch.cat([self._losses(self._embed(part)) for part in ids.split(CHUNK)])

    def gradient(self, ids: Tensor) -> Tensor:
        """Return the gradient with regard to one-hot tokens."""
        weights = one_hot(ids, N_VOCAB).to(self.table.dtype).requires_grad_()
        loss = self._losses(self._follow(weights @ self.table)).sum()
        return torch.autograd.grad(loss, weights)[0]

    def _embed(self, ids: Tensor) -> Tensor:
        return self._follow(self.table[ids])

    def _follow(self, trigger: Tensor) -> Tensor:
        tail = self.table[self.tail]
        return torch.cat([trigger, tail.expand(len(trigger), *tail.shape)], dim=1)

    def _losses(self, embeds: Tensor) -> Tensor:
        n = len(embeds)
        cache = DynamicCache()
        for i, layer in enumerate(self.prefix.layers):
            cache.update(*(kv.expand(n, -1, -1, -1) for kv in (layer.keys, layer.values)), i)
        logits = self.model(
            inputs_embeds=embeds, past_key_values=cache, logits_to_keep=N_TARGET + 1
        ).logits[:, :-1]
        targets = self.target.expand(n, N_TARGET)
        return cross_entropy(logits.mT, targets, reduction="none").mean(dim=1)


def main() -> None:
    """Parse the command line, check that all agree, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Verbatim)
    parser.add_argument("--candidates", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=CHUNK, help="of the backend")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = _build_model()
    shared, whole = (_wrap(model, args.batch_size, use_prefix_cache=on) for on in (True, False))
    hand = _hand_written(model, shared)
    print(f"torch {torch.__version__}, {args.threads} threads, chunks of {args.batch_size}")
    print(f"{'piece':<12}{'contestant':<20}{'min ms':>9}{'median ms':>11}{'ratio':>8}")
    for n in args.candidates:
        ids = torch.randint(0, N_VOCAB, (n, N_TRIGGER))
        _compare(f"loss {n}", _loss_contestants(hand, shared, whole, ids), args.repeats)
    ids = torch.randint(0, N_VOCAB, (1, N_TRIGGER))
    _compare("gradient", _gradient_contestants(hand, shared, whole, ids), args.repeats)
    _time_topk(shared, ids, args.repeats)


def _build_model() -> Any:
    config = LlamaConfig(
        vocab_size=N_VOCAB,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
    )
    # Frozen, as whoever writes this by hand would have it.
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def _wrap(model: Any, batch_size: int, *, use_prefix_cache: bool) -> LMHFModel:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    lm = LMHFModel(
        model,
        tokenizer=tokenizer,
        forward_pass_batch_size=batch_size,
        use_prefix_cache=use_prefix_cache,
    )
    target = torch.arange(100, 100 + N_TARGET)
    targets = Targets(target_response_toks=[target])
    for n_words in range(1, 4 * N_PREFIX):
        for end in ("", " x"):
            prefix = "?" + " !" * n_words + end
            lm.set_inputs_from_tokens([f"{prefix}\n{OPTIMIZED_TRIGGER_PLACEHOLDER}\n!"], targets)
            if _n_before(lm) == N_PREFIX:
                return lm
    raise SystemExit(f"no prefix of {N_PREFIX} tokens was found.")


def _n_before(lm: LMHFModel) -> int:
    return _slices(lm)[SliceKey.TRIGGER].start


def _slices(lm: LMHFModel) -> dict[str, slice]:
    ids = torch.zeros((1, N_TRIGGER), dtype=torch.int64)
    return _filled(lm, ids).input_slices


def _filled(lm: LMHFModel, ids: Tensor) -> Any:
    inputs: Any = lm._token_input_manager  # pyright: ignore[reportPrivateUsage] - what it is timed on
    return inputs.get_triggered_inputs(0, ids, do_append_embeds=True, decode=False)


def _hand_written(model: Any, lm: LMHFModel) -> HandWritten:
    slices = _slices(lm)
    row = _filled(lm, torch.zeros((1, N_TRIGGER), dtype=torch.int64)).input_ids[0]
    parts = (SliceKey.INPUT_BEFORE, SliceKey.INPUT_AFTER, SliceKey.APPENDED)
    return HandWritten(model, *(row[slices[part]] for part in parts))


def _loss_contestants(
    hand: HandWritten, shared: LMHFModel, whole: LMHFModel, ids: Tensor
) -> Contestants:
    loss = PrefillCELoss()
    return {
        "hand-written": lambda: hand.losses(ids),
        "shared prefix": lambda: shared.compute_loss_from_tokens(ids, loss),
        "whole inputs": lambda: whole.compute_loss_from_tokens(ids, loss),
    }


def _gradient_contestants(
    hand: HandWritten, shared: LMHFModel, whole: LMHFModel, ids: Tensor
) -> Contestants:
    loss = PrefillCELoss()
    return {
        "hand-written": lambda: hand.gradient(ids),
        "shared prefix": lambda: shared.compute_grad_from_tokens(loss, ids),
        "whole inputs": lambda: whole.compute_grad_from_tokens(loss, ids),
    }


def _time_topk(lm: LMHFModel, ids: Tensor, repeats: int) -> None:
    times = [
        _time(lambda: lm.compute_topk_from_tokens(PrefillCELoss(), ids, 256).scores)
        for _ in range(repeats)
    ]
    _print_row("top 256", "shared prefix", times, None)


def _compare(piece: str, contestants: Contestants, repeats: int) -> None:
    """Run all once to see that they agree, then time them in turn."""
    expected = contestants["hand-written"]()
    for run in contestants.values():
        torch.testing.assert_close(run(), expected, atol=TOLERANCE, rtol=TOLERANCE)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            times[name].append(_time(run))
    for name, held in times.items():
        _print_row(piece, name, held, times["hand-written"])


def _time(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - began)


def _print_row(piece: str, name: str, held: list[float], anchor: list[float] | None) -> None:
    ratio = ""
    if anchor is not None:
        ratio = f"{statistics.median(a / b for a, b in zip(held, anchor, strict=True)):.2f}"
    print(f"{piece:<12}{name:<20}{min(held):>9.1f}{statistics.median(held):>11.1f}{ratio:>8}")


class _Verbatim(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description."""


if __name__ == "__main__":
    main()
