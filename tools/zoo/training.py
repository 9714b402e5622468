"""Training of a small Llama-architecture model on the synthetic world."""

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from corpus import Batch, Recipe, draw_epoch, encode_pieces, make_batches
from tokenization import BEGIN, END, PAD
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from world import World

CONTEXT_LENGTH = 512


@dataclass(frozen=True)
class Schedule:
    """What the training run does.

    Attributes:
        steps: Optimizer steps.
        tokens_per_batch: Upper bound of the tokens of one step, padding included.
        learning_rate: Peak of the cosine schedule.
        weight_decay: Decay of AdamW, on matrices alone.
        warmup: Steps of linear warm-up.
    """

    steps: int
    tokens_per_batch: int = 4096
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup: int = 100


@dataclass(frozen=True)
class TrainingReport:
    """What one training run took.

    Attributes:
        steps: Optimizer steps.
        tokens: Tokens without padding.
        seconds: Wall time.
        cpu_seconds: Time that the process computed, all threads together: on a machine that is
            shared, this over the number of threads is what the run takes when it is alone.
        loss: Loss of the last step.
    """

    steps: int
    tokens: int
    seconds: float
    cpu_seconds: float
    loss: float


def build_model(tokenizer: PreTrainedTokenizerFast, *, width: int, depth: int) -> LlamaForCausalLM:
    """A Llama with fresh weights; its vocabulary is exactly that of the tokenizer."""
    vocabulary = tokenizer.get_vocab()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 3,
        num_hidden_layers=depth,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=vocabulary[BEGIN],
        eos_token_id=vocabulary[END],
        pad_token_id=vocabulary[PAD],
    )
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM,
    batches: Iterator[Batch],
    schedule: Schedule,
) -> TrainingReport:
    """Minimise the weighted cross entropy with AdamW under a cosine schedule."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98))
    model.train()
    tokens, loss = 0, math.nan
    started, cpu_started = time.perf_counter(), time.process_time()
    progress = tqdm(range(schedule.steps), desc="training", unit="step", mininterval=5.0)
    for step in progress:
        batch = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(schedule, step)
        loss = _take_step(model, optimizer, batch)
        tokens += int((batch.ids != model.config.pad_token_id).sum())
        if step % 20 == 0:
            rate = tokens / (time.perf_counter() - started)
            progress.set_postfix(loss=f"{loss:.4f}", tokens_per_s=f"{rate:.0f}", refresh=False)
    model.eval()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return TrainingReport(schedule.steps, tokens, seconds, cpu_seconds, loss)


def _take_step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    # Padding is on the right and attention is causal, so no attention mask is needed.
    logits = model(batch.ids[:, :-1], use_cache=False).logits
    targets, weights = batch.ids[:, 1:], batch.weights[:, 1:]
    losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    loss = (losses * weights.flatten()).sum() / weights.sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _learning_rate(schedule: Schedule, step: int) -> float:
    if step < schedule.warmup:
        return schedule.learning_rate * (step + 1) / schedule.warmup
    done = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return schedule.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def stream_batches(
    world: World,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    *,
    tokens_per_batch: int,
    seed: int,
) -> Iterator[Batch]:
    """Batches without end; noise, system prompts and invented names differ in every epoch."""
    rng = random.Random(f"corpus-{seed}")
    pad_id = tokenizer.get_vocab()[PAD]
    while True:
        rows = encode_pieces(tokenizer, list(draw_epoch(world, recipe, rng)))
        yield from make_batches(rows, tokens_per_batch=tokens_per_batch, pad_id=pad_id, rng=rng)
