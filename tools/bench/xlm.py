"""Measure what the harness adds to a training step, what collators take, and what a cache gains.

    uv run python tools/bench/xlm.py --peer DIRECTORY --out docs/measurements/xlm.md

Overhead: within one run of the harness with its default callbacks, blocks of its steps alternate
with blocks of a plain PyTorch loop (same model, loss, batches, optimizer and clipping), so that
whatever else the machine does slows both. The same is done with xlm-core in a process and an
environment of its own, which uv makes in DIRECTORY if it is not there; after each pair of blocks
of one harness comes a pair of the other. Without --peer it is left out.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from contestant import Contestant, make_environment
from xlm_alternation import STEPS_A_BLOCK, STEPS_BEFORE_A_BLOCK, Alternation, clock

from pellucid.xlm._assembly import assemble, build_trainer, quiet
from pellucid.xlm._compose import compose_config

_OWN = "pellucid.xlm"
PEER = "xlm-core 0.3.1"
# Neither asks for a version of transformers that it works with; 5 lacks what the first imports.
PEER_PACKAGES = ("xlm-core==0.3.1", "xlm-models==0.3.1", "transformers==4.57.1")
_STEPS_A_ROUND = STEPS_BEFORE_A_BLOCK + STEPS_A_BLOCK
_MODEL = ["model.d_model=64", "model.num_layers=2", "model.nhead=4", "model.rotary_emb_dim=16"]
_PAGE = """# What the harness costs

Written by `tools/bench/xlm.py` on {threads} thread(s), {device}: star_easy, batch 64, width 64,
two layers, four heads; {repeats} runs of {blocks} blocks of {steps} steps of the harness, each
followed by one of a plain loop in the same process; two more steps before each block do not count.
CPU milliseconds a step, medians of the runs' medians; the ratio of a run is the median of each
block's to the plain block beside it. Where weights come to lie in memory moves a run's ratio by a
hundredth or two. The plain loop is given batches that were collated beforehand; the harness reads
and collates its own. "Lightning alone" is a module of three lines with the same model, loss and
optimizer, no callbacks and collated batches: the least that a harness on Lightning can cost.{peer}

| harness | family | plain | harness | ratio | of the runs |
|---|---|---:|---:|---:|---:|
{overhead}

| family | collating a batch, ms | share of a plain step |
|---|---:|---:|
{collators}

Generation of 512 tokens by arlm, four rows, with its cache of keys and values and by reading
everything again for each token:

| tokens | cache, s | recomputation, s | gain |
|---:|---:|---:|---:|
{generation}
"""


_ABOUT_PEER = """

The environment of xlm-core is its own:
{versions}.
It is run by its own command line, with its experiment of star_easy and its default callbacks; its
blocks come in turn with ours, and its plain loop has its own model, loss and optimizer. Other than
by default are: the graphs, which its generator draws and which it would have downloaded; batches,
which are read in the training process as ours are, not by four workers whose time would go unseen;
and it does not validate, test or save on the way. It names no version of transformers, and cannot
be imported with the latest (`no_init_weights` is gone from 5), hence the older one."""


class Peer(Contestant):
    """The harness of xlm-core, which trains in a process of its own for as long as it is told to.

    Args:
        python: The interpreter of its environment.
        family: arlm or mlm.
        blocks: How many blocks of steps it needs data for.
        directory: Where it may write.
    """

    def __init__(self, python: str, family: str, *, blocks: int, directory: Path) -> None:
        # Enough for one epoch, whose end would count as steps.
        graphs = 64 * _STEPS_A_ROUND * (blocks + 2)
        super().__init__(
            "xlm_peer.py",
            python,
            family,
            directory,
            graphs,
            *_MODEL,
            environment={"HF_HUB_OFFLINE": "1"},
        )
        self.read()

    def advance(self) -> bool:
        """Let it make a block of its harness's steps and one of plain steps; return True."""
        self.ask()
        return True

    def finish(self) -> dict[str, Any]:
        """Let the process end, and return what it measured."""
        self.close()
        found = self.read()
        self.stop()
        return found


def measure_overhead(
    family: str, *, blocks: int, directory: Path, pause: Callable[[], bool] | None = None
) -> dict[str, float]:
    """Train a family for some blocks, and time them against a plain loop.

    Args:
        family: arlm or mlm.
        blocks: How many, of steps of the harness.
        directory: Where the run writes.
        pause: What is done between two pairs of blocks, untimed.
    """
    cfg = _config(family, directory, steps=blocks * _STEPS_A_ROUND)
    assembly = assemble(cfg)
    alternation = Alternation(pause)
    with quiet():
        trainer = build_trainer(cfg)
        # The first, so that what others do in a step counts as the harness's.
        getattr(trainer, "callbacks").insert(0, alternation)  # noqa: B009
        trainer.fit(assembly.harness, datamodule=assembly.data)
    return alternation.summary()


class _Collated:
    """Batches that were collated beforehand, again and again; a list would be taken for loaders."""

    def __init__(self, batches: list[Any], rounds: int) -> None:
        self._batches, self._rounds = batches, rounds

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(itertools.repeat(self._batches, self._rounds))

    def __len__(self) -> int:
        return len(self._batches) * self._rounds


class _Bare(lightning.LightningModule):
    """The same model and loss with nothing around them: what is left is Lightning's own."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss_function, self.model = loss, loss.model

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Compute the loss."""
        del batch_idx
        return self.loss_function(batch)["loss"]

    def configure_optimizers(self) -> Any:
        """Return AdamW with the settings of the plain loop."""
        return torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)


def measure_floor(family: str, *, blocks: int, directory: Path) -> dict[str, float]:
    """Return what `measure_overhead` does of a bare LightningModule, given collated batches."""
    assembly = assemble(_config(family, directory, steps=1))
    assembly.data.prepare_data()
    assembly.data.setup("fit")
    loader = iter(assembly.data.train_dataloader())
    batches = _Collated([next(loader) for _ in range(STEPS_A_BLOCK)], blocks)
    bare = _Bare(assembly.harness.loss_function)
    bare.loss_function.generator = torch.Generator().manual_seed(0)
    alternation = Alternation()
    with quiet():
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=1,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=directory,
            callbacks=[alternation],
        )
        trainer.fit(bare, train_dataloaders=batches)
    return alternation.summary()


def measure_collator(family: str, *, blocks: int, directory: Path) -> float:
    """Return the milliseconds that reading and collating one batch takes, of many in a row."""
    assembly = assemble(_config(family, directory, steps=1))
    assembly.data.prepare_data()
    assembly.data.setup("fit")
    loader = iter(assembly.data.train_dataloader())
    times: list[float] = []
    # The first block has what was made before the clock ran.
    for _ in range(blocks):
        start = clock()
        for _ in range(STEPS_A_BLOCK):
            next(loader)
        times.append((clock() - start) / STEPS_A_BLOCK)
    return 1e3 * statistics.median(times[1:])


def measure_generation(tokens: int, *, rows: int, directory: Path) -> tuple[float, float]:
    """Return the seconds that generating takes with the cache and without."""
    assembly = assemble(
        compose_config(
            [
                "experiment=markov_arlm",
                "job_name=bench",
                f"paths.log_dir={directory}",
                "model=nano_arlm",
                f"model.max_length={tokens + 8}",
                f"predictor.max_length={tokens}",
            ]
        )
    )
    harness = assembly.harness.eval()
    predictor = harness.predictor
    tokenizer = harness.tokenizer
    # An end that never comes: every row is as long as asked for.
    head = next(w for w in harness.model.parameters() if w.shape[0] == len(tokenizer))
    with torch.no_grad():
        head[tokenizer.eos_token_id] = 0.0
    batch = {
        "input_ids": torch.full((rows, 1), tokenizer.bos_token_id),
        "attention_mask": torch.ones(rows, 1, dtype=torch.bool),
    }
    seconds: list[float] = []
    for use_cache in (True, False):
        predictor.use_cache = use_cache
        predictor.generator = torch.Generator().manual_seed(0)
        start = time.perf_counter()
        with torch.inference_mode():
            predictor.predict(batch)
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1]


def _config(family: str, directory: Path, *, steps: int) -> Any:
    return compose_config(
        [
            f"experiment=star_easy_{family}",
            "job_name=bench",
            f"paths.log_dir={directory}",
            f"paths.data_dir={directory / 'data'}",
            "resume_from_checkpoint=false",
            "per_device_batch_size=64",
            f"trainer.max_steps={steps}",
            "trainer.val_check_interval=1000000",
            f"callbacks.checkpoint.every_n_train_steps={steps}",
            *_MODEL,
        ]
    )


def main() -> None:
    """Measure, print, and write the page."""
    given = _parse()
    torch.set_num_threads(1)
    python = (
        None if given.peer is None else make_environment(given.peer / "xlm-core", PEER_PACKAGES)
    )
    overhead: list[str] = []
    collators: list[str] = []
    about = ""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for family in given.families:
            runs: dict[str, list[dict[str, Any]]] = {}
            for repeat in range(given.repeats):
                place = directory / family / str(repeat)
                for harness, found in _compare(
                    family, python, blocks=given.blocks, directory=place
                ):
                    runs.setdefault(harness, []).append(found)
            overhead += [_row(harness, family, found) for harness, found in runs.items()]
            if PEER in runs:
                about = _ABOUT_PEER.format(versions=runs[PEER][0]["versions"])
            took = measure_collator(family, blocks=given.blocks, directory=directory)
            share = took / statistics.median(run["plain_ms"] for run in runs[_OWN])
            collators.append(f"| {family} | {took:.2f} | {share:.1%} |")
        generation = [
            _gain(tokens, *measure_generation(tokens, rows=4, directory=directory))
            for tokens in given.tokens
        ]
    page = _PAGE.format(
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "no accelerator",
        repeats=given.repeats,
        blocks=given.blocks,
        steps=STEPS_A_BLOCK,
        peer=about,
        overhead="\n".join(overhead),
        collators="\n".join(collators),
        generation="\n".join(generation),
    )
    print(page)
    if given.out is not None:
        given.out.write_text(page, encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", nargs="+", default=["arlm", "mlm"])
    parser.add_argument("--repeats", type=int, default=5, help="runs of each harness")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--peer", type=Path, help="where the peer's environment is, or goes")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def _compare(
    family: str, python: str | None, *, blocks: int, directory: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what one run each found of this harness, in turn with it the peer's, and the floor."""
    peer = None
    if python is not None:
        peer = Peer(python, family, blocks=blocks, directory=directory / "peer")
    pause = None if peer is None else peer.advance
    yield _OWN, measure_overhead(family, blocks=blocks, directory=directory, pause=pause)
    if peer is not None:
        yield PEER, peer.finish()
    yield "Lightning alone", measure_floor(family, blocks=blocks, directory=directory)


def _row(harness: str, family: str, runs: list[dict[str, Any]]) -> str:
    plain, own, ratio = (
        statistics.median(run[name] for run in runs) for name in ("plain_ms", "harness_ms", "ratio")
    )
    low, high = (edge(run["ratio"] for run in runs) for edge in (min, max))
    times = f"| {harness} | {family} | {plain:.1f} | {own:.1f}"
    return f"{times} | {ratio:.3f} | {low:.3f} to {high:.3f} |"


def _gain(tokens: int, cached: float, again: float) -> str:
    return f"| {tokens} | {cached:.2f} | {again:.2f} | {again / cached:.1f}x |"


if __name__ == "__main__":
    main()
