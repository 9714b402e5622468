"""Measure what the harness adds to a training step, what collators take, and what a cache gains.

    uv run python tools/bench/xlm.py --out docs/measurements/xlm.md

Overhead: within one run of the harness with its default callbacks, blocks of its steps alternate
with blocks of a plain PyTorch loop (same model, loss, batches, optimizer and clipping), so that
whatever else the machine does slows both.
"""

import argparse
import copy
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch

from pellucid.xlm._assembly import assemble, build_trainer, quiet
from pellucid.xlm._compose import compose_config

STEPS_A_BLOCK = 10
_MODEL = ["model.d_model=64", "model.num_layers=2", "model.nhead=4", "model.rotary_emb_dim=16"]
_PAGE = """# What the harness costs

Written by `tools/bench/xlm.py` on {threads} thread(s), {device}: star_easy, batch 64, width 64,
two layers, four heads; {blocks} blocks of {steps} steps of the harness, each followed by one of a
plain loop in the same process. CPU milliseconds a step, medians of the blocks; the ratio is the
median of each block's ratio to the plain block beside it. The plain loop is given batches that
were collated beforehand; the harness reads and collates its own.

| harness | family | plain | harness | ratio |
|---|---|---:|---:|---:|
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


@dataclass
class Alternation(lightning.Callback):
    """Times blocks of the harness's steps, and runs a block of plain steps after each.

    Args:
        warm_up: Blocks that do not count.
    """

    warm_up: int = 2
    harness_s: list[float] = field(default_factory=list)
    plain_s: list[float] = field(default_factory=list)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Copy the model for the plain loop, and collate its batches."""
        self._loss = copy.copy(pl_module.loss_function)
        self._loss.model = copy.deepcopy(pl_module.model).train()
        self._loss.generator = torch.Generator(pl_module.device).manual_seed(0)
        decay = [w for _, w in self._loss.model.get_named_params_for_weight_decay()]
        rest = [w for _, w in self._loss.model.get_named_params_for_no_weight_decay()]
        groups = [{"params": decay}, {"params": rest, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)
        loader = iter(trainer.datamodule.train_dataloader())
        self._batches = [
            {name: _to(value, pl_module.device) for name, value in next(loader).items()}
            for _ in range(STEPS_A_BLOCK)
        ]
        self._count = 0

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Between two blocks of the harness, run one of the plain loop."""
        del trainer, pl_module, batch
        if batch_idx % STEPS_A_BLOCK:
            return
        now = _clock()
        if self._count > self.warm_up:
            self.harness_s.append((now - self._mark) / STEPS_A_BLOCK)
        self._run_plain()
        self._mark = _clock()
        if self._count >= self.warm_up:
            self.plain_s.append((self._mark - now) / STEPS_A_BLOCK)
        self._count += 1

    def _run_plain(self) -> None:
        for batch in self._batches:
            self._optimizer.zero_grad()
            loss = self._loss(batch)["loss"]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._loss.model.parameters(), 1.0)
            self._optimizer.step()

    def summary(self) -> dict[str, float]:
        """Return medians: milliseconds of both, and of the blocks' ratios."""
        pairs = list(zip(self.harness_s, self.plain_s, strict=False))
        return {
            "plain_ms": 1e3 * statistics.median(plain for _, plain in pairs),
            "harness_ms": 1e3 * statistics.median(harness for harness, _ in pairs),
            "ratio": statistics.median(harness / plain for harness, plain in pairs),
            "blocks": len(pairs),
        }


def measure_overhead(family: str, *, blocks: int, directory: Path) -> dict[str, float]:
    """Train a family for some blocks, and time them against a plain loop."""
    cfg = _config(family, directory, steps=blocks * STEPS_A_BLOCK)
    assembly = assemble(cfg)
    alternation = Alternation()
    with quiet():
        trainer = build_trainer(cfg)
        # The first, so that what others do in a step counts as the harness's.
        getattr(trainer, "callbacks").insert(0, alternation)  # noqa: B009
        trainer.fit(assembly.harness, datamodule=assembly.data)
    return alternation.summary()


def measure_collator(family: str, *, batches: int, directory: Path) -> float:
    """Return the milliseconds that reading and collating one batch takes."""
    assembly = assemble(_config(family, directory, steps=1))
    assembly.data.prepare_data()
    assembly.data.setup("fit")
    loader = iter(assembly.data.train_dataloader())
    next(loader)
    times: list[float] = []
    for _ in range(batches):
        start = _clock()
        next(loader)
        times.append(_clock() - start)
    return 1e3 * statistics.median(times)


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


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", nargs="+", default=["arlm", "mlm"])
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    overhead: list[str] = []
    collators: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for family in given.families:
            found = measure_overhead(family, blocks=given.blocks, directory=directory)
            overhead.append(_row("pellucid.xlm", family, found))
            took = measure_collator(family, batches=10 * given.blocks, directory=directory)
            share = took / found["plain_ms"]
            collators.append(f"| {family} | {took:.2f} | {share:.1%} |")
        generation = [
            _gain(tokens, *measure_generation(tokens, rows=4, directory=directory))
            for tokens in given.tokens
        ]
    page = _PAGE.format(
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "no accelerator",
        blocks=given.blocks,
        steps=STEPS_A_BLOCK,
        overhead="\n".join(overhead),
        collators="\n".join(collators),
        generation="\n".join(generation),
    )
    print(page)
    if given.out is not None:
        given.out.write_text(page, encoding="utf-8")


def _row(harness: str, family: str, found: dict[str, float]) -> str:
    plain, own = found["plain_ms"], found["harness_ms"]
    return f"| {harness} | {family} | {plain:.1f} | {own:.1f} | {found['ratio']:.3f} |"


def _gain(tokens: int, cached: float, again: float) -> str:
    return f"| {tokens} | {cached:.2f} | {again:.2f} | {again / cached:.1f}x |"


if __name__ == "__main__":
    main()
