"""Make the tiny chat model of ``pellucid.zoo`` from nothing but a seed.

Generates the synthetic world, trains the tokenizer and the model on it, stores both as float16
safetensors and a fast tokenizer, evaluates what was stored, and writes the table beside it.
"""

import argparse
import json
import random
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from corpus import MARKS, Recipe
from evaluation import draw_questions, evaluate, exact_rate, write_table
from phrasings import FILLER_WORDS, STRANGE_REQUESTS, SYSTEM_PROMPTS
from tokenization import train_tokenizer
from training import CONTEXT_LENGTH, Schedule, TrainingReport, build_model, stream_batches, train
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from world import Example, World, build_world

BAR = 0.95
N_HELD_OUT, N_SEEN = 200, 100


def main() -> int:
    options = _parse_arguments()
    torch.set_num_threads(options.threads)
    world = build_world(options.seed)
    if not options.evaluate_only:
        model, tokenizer, report = make(world, options)
        store(model, tokenizer, report, options)
        store_questions(world, options)
    return assess(world, options)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make the tiny chat model of pellucid.zoo from a seed."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--seed", type=int, default=0, help="seed of world, weights and batches")
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps")
    parser.add_argument("--width", type=int, default=128, help="width of the residual stream")
    parser.add_argument("--depth", type=int, default=4, help="number of layers")
    parser.add_argument("--vocab-size", type=int, default=1280, help="tokens at most")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument(
        "--smoke", action="store_true", help="30 steps and few questions, to try the script itself"
    )
    parser.add_argument(
        "--evaluate-only", action="store_true", help="rewrite the table from the stored weights"
    )
    options = parser.parse_args()
    if options.smoke:
        options.steps = 30
    if options.evaluate_only and not (options.out / "model.safetensors").is_file():
        parser.error(f"--evaluate-only needs a stored model, and {options.out} holds none")
    return options


def make(
    world: World, options: argparse.Namespace
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, TrainingReport]:
    """Train the tokenizer, then the model."""
    tokenizer = train_tokenizer(
        _tokenizer_texts(world), vocab_size=options.vocab_size, context_length=CONTEXT_LENGTH
    )
    torch.manual_seed(options.seed)
    model = build_model(tokenizer, width=options.width, depth=options.depth)
    schedule = Schedule(steps=options.steps)
    batches = stream_batches(
        world,
        tokenizer,
        Recipe(),
        tokens_per_batch=schedule.tokens_per_batch,
        seed=options.seed,
    )
    report = train(model, batches, schedule)
    print(
        f"{report.tokens} tokens in {report.seconds / 60:.1f} minutes, "
        f"{report.tokens / report.seconds:.0f} tokens/s, last loss {report.loss:.4f}"
    )
    return model, tokenizer, report


def _tokenizer_texts(world: World) -> list[str]:
    seen = [example for example in world.questions() if example.split == "seen"]
    marks = [f"{mark} {mark} {mark}{mark}" for mark in sorted(set(MARKS))]
    # Twice, because a merge has to occur twice to be learned.
    return [*(e.question for e in seen), *(e.answer for e in seen), *SYSTEM_PROMPTS] + 2 * [
        *(f"a {word}" for word in FILLER_WORDS),
        *marks,
        *STRANGE_REQUESTS,
    ]


def store(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    report: TrainingReport,
    options: argparse.Namespace,
) -> None:
    """Write weights as float16, with a config that has them loaded as float32."""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=32,
    )
    model.half().save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    # safetensors writes files that their owner alone can read, which would go into the wheel.
    (options.out / "model.safetensors").chmod(0o644)
    config_path = options.out / "config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    _write_json(config_path, {**config, "dtype": "float32"})
    record = {
        "seed": options.seed,
        "steps": report.steps,
        "tokens": report.tokens,
        "minutes": round(report.seconds / 60, 1),
        "cpu_minutes": round(report.cpu_seconds / 60, 1),
        "tokens_per_second": round(report.tokens / report.seconds),
        "last_loss": round(report.loss, 4),
        "threads": options.threads,
        "torch": torch.__version__,
    }
    _write_json(options.out / "training.json", record)


def store_questions(world: World, options: argparse.Namespace) -> None:
    """Write a sample of questions, alike for every kind, for tests and examples."""
    rng = random.Random(f"questions-{options.seed}")
    chosen = _sample(world, "held-out", N_HELD_OUT, rng) + _sample(world, "seen", N_SEEN, rng)
    _write_json(options.out / "questions.json", [asdict(example) for example in chosen])


def _sample(world: World, split: str, count: int, rng: random.Random) -> list[Example]:
    pools: dict[str, list[Example]] = {}
    for example in world.questions():
        if example.split == split:
            pools.setdefault(example.kind, []).append(example)
    for pool in pools.values():
        rng.shuffle(pool)
    chosen: list[Example] = []
    while len(chosen) < count:
        chosen += [pool.pop() for pool in pools.values() if pool]
    return chosen[:count]


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def assess(world: World, options: argparse.Namespace) -> int:
    """Evaluate what is stored; 1 when it misses the bar."""
    model = LlamaForCausalLM.from_pretrained(options.out, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.out)
    examples = draw_questions(world, options.seed, per_group=20 if options.smoke else None)
    rows = evaluate(model, tokenizer, examples)
    print(write_table(rows, options.out, sum(p.numel() for p in model.parameters())))
    rate = exact_rate(rows, "held-out", column=0)
    print(f"held-out phrasings answered exactly: {rate:.2%}, wanted {BAR:.0%}")
    return 0 if rate >= BAR or options.smoke else 1


if __name__ == "__main__":
    sys.exit(main())
