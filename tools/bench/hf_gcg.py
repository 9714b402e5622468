"""Time the pieces of a GCG step: this workspace, hand-written PyTorch, TROPT and nanoGCG, in turn.

    uv run python tools/bench/hf_gcg.py --peers DIRECTORY --out docs/measurements/hf-gcg.md

A random Llama of 4 layers, width 256 and a vocabulary of 4096 words; 18 tokens before the trigger,
20 in it, 20 in the target. Every word is a token, so that no candidate is lost to retokenization
and all contestants evaluate as many. Each contestant is a process of its own (`hf_gcg_worker.py`),
the peers in environments of their own, which uv makes in DIRECTORY if they are not there; without
--peers they are left out. All run each piece in turn within each repeat, so that what else the
machine does hits them alike, and ratios are of the same repeat. That all have the same losses is
checked before anything is timed.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from contestant import OWN_PYTHON, Contestant, make_environment, median_ratio
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

N_PREFIX, N_TRIGGER, N_AFTER, N_TARGET, N_VOCAB = 18, 20, 2, 20, 4096
TOLERANCE = 1e-4
PEERS = {"tropt": "tropt==0.1.1", "nanogcg": "nanogcg==0.3.0"}
PEER_PYTHON = "3.12"
HAND, OURS, PRODUCTS = "hand-written", "pellucid", "products alone"

# What is compared with what, and how large the ratio may be.
GOALS = {
    ("gradient", HAND): 1.05,
    ("losses", HAND): 0.9,
    ("filter", HAND): 1.0,
    ("step", "tropt"): 0.4,
    ("step", "nanogcg"): 0.35,
}

_HEAD = """# A step of GCG against hand-written PyTorch, TROPT and nanoGCG

Written by `tools/bench/hf_gcg.py`; its first lines say what is timed, and how to run it. Times are
milliseconds of {clock}, medians of {repeats} repeats on {threads} thread(s); the ratio is this
workspace's time to the contestant's, the median over repeats. A step is half of what a run of three
steps takes beyond one of one step, candidates filtered and evaluated as each package does.

"Products alone" is the least that any evaluation can take here: the products with the weights of
the positions that differ between candidates and of the logits that are read, and nothing else.

"""


class Worker(Contestant):
    """A contestant that says at the start what it can do."""

    def __init__(self, package: str, python: str, folder: Path, threads: int) -> None:
        super().__init__(
            "hf_gcg_worker.py", python, package, folder, threads, threads=threads, shows_errors=True
        )
        hello = self.read()
        self.pieces: list[str] = hello["pieces"]
        self.torch: str = hello["torch"]

    def run(self, piece: str, n: int) -> dict[str, Any]:
        """Run a piece once; a step is half of what three steps take beyond one."""
        if piece == "step" and piece not in self.pieces:
            three, one = self.run("run 3", n), self.run("run 1", n)
            return {clock: (three[clock] - one[clock]) / 2 for clock in ("wall", "cpu")}
        return self.ask(piece=piece, n=n)


def main() -> int:
    """Check that all agree, time them in turn, print and write the table; 1 if a goal is missed."""
    options, text = _parse(), ""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save_problem(folder)
        pythons = {HAND: OWN_PYTHON, OURS: OWN_PYTHON}
        if options.peers is not None:
            pythons |= {
                peer: make_environment(options.peers / peer, [pin], python=PEER_PYTHON)
                for peer, pin in PEERS.items()
            }
        workers = {p: Worker(p, python, folder, options.threads) for p, python in pythons.items()}
        _check_losses(workers)
        rows: list[str] = []
        pieces = [(piece, n) for n in options.candidates for piece in ("losses", "filter", "step")]
        for piece, n in [("gradient", 1), *pieces]:
            rows += _to_rows(piece, n, _time(workers, piece, n, options.repeats), options.clock)
            # A run that is ended early leaves what it has found.
            text = _write_table(rows, workers, options)
        for worker in workers.values():
            worker.stop()
    print(text)
    return int(any("missed" in row for row in rows))


def _write_table(rows: list[str], workers: dict[str, Worker], options: argparse.Namespace) -> str:
    clock = "time by the clock" if options.clock == "wall" else "processor time"
    head = _HEAD.format(repeats=options.repeats, threads=options.threads, clock=clock)
    versions = "".join(f"- {name}: torch {worker.torch}\n" for name, worker in workers.items())
    table = ["| piece | contestant | ms | ratio | goal | |", "|---|---|---:|---:|---:|---|", *rows]
    text = f"{head}{versions}\n" + "\n".join(table) + "\n"
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    return text


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the pieces of a GCG step.")
    parser.add_argument("--candidates", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--peers", type=Path, help="where the peers' environments are, or go")
    parser.add_argument("--out", type=Path, help="where to write the table, in Markdown")
    return parser.parse_args()


def _save_problem(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=N_VOCAB,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(N_VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))
    draw = torch.Generator().manual_seed(1)
    lengths = {"before": N_PREFIX, "trigger": N_TRIGGER, "after": N_AFTER, "target": N_TARGET}
    problem = {
        part: " ".join(f"w{i}" for i in torch.randint(1, N_VOCAB, (n,), generator=draw).tolist())
        for part, n in lengths.items()
    }
    (folder / "problem.json").write_text(json.dumps(problem), encoding="utf-8")


def _check_losses(workers: dict[str, Worker]) -> None:
    expected = torch.tensor(workers[HAND].run("losses", 100)["losses"])
    for name, worker in workers.items():
        found = torch.tensor(worker.run("losses", 100)["losses"])
        gap = float((found - expected).abs().max())
        if gap > TOLERANCE:
            raise SystemExit(f"{name} has other losses than {HAND}, by up to {gap:.2g}.")


def _time(
    workers: dict[str, Worker], piece: str, n: int, repeats: int
) -> dict[str, list[dict[str, float]]]:
    for name, worker in workers.items():
        # Batch sizes are chosen in the first calls; of the others, one call loads what is lazy.
        for _ in range(3 if name == OURS else 1):
            worker.run(piece, n)
    held: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for _ in range(repeats):
        for name, worker in workers.items():
            held[name].append(worker.run(piece, n))
        if piece in ("losses", "step"):
            held.setdefault(PRODUCTS, []).append(workers[HAND].run("products", n))
    return held


def _to_rows(piece: str, n: int, held: dict[str, list[dict[str, float]]], clock: str) -> list[str]:
    ours = [one[clock] for one in held[OURS]]
    label = piece if n == 1 else f"{piece} {n}"
    rows: list[str] = []
    for name, timings in held.items():
        theirs = [one[clock] for one in timings]
        ratio = median_ratio(ours, theirs)
        goal = GOALS.get((piece, name))
        verdict = "" if goal is None else "met" if ratio <= goal else "missed"
        shown = "" if name == OURS else f"{ratio:.2f}"
        ms = statistics.median(theirs)
        rows.append(f"| {label} | {name} | {ms:.1f} | {shown} | {goal or ''} | {verdict} |")
    return rows


if __name__ == "__main__":
    sys.exit(main())
