"""Measures what a second process gains, and writes docs/measurements/scale-out.md.

    uv run python tools/bench/scale_out.py [--steps 10] [--repeats 3] [--out FILE]

Candidates: steps of GCG (64 candidates of a random Llama of 4 layers and width 256) by one
process and by two of `accelerate launch`, in turn, one thread each; gradients are computed by every
process, losses are shared out. Training: `xlm` on star_easy, arlm, one process and two of ddp, from
the difference between runs of two lengths. Sweep: four runs of a recipe by Hydra's joblib launcher
with one job and two. Remote: 64 requests to a server on loopback that answers each after 0.1 s, by
how many are in flight. What more processes would take is computed from these figures by the
formulas of docs/scale-out.md, and marked so.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pellucid.api import LiteLLMModel

PAGE = Path(__file__).parents[2] / "docs/measurements/scale-out.md"
WORKER = Path(__file__).with_name("scale_out_worker.py")
BEYOND = (4, 8, 16)
N_REQUESTS, SERVICE_S, IN_FLIGHT = 64, 0.1, (1, 2, 4, 8, 16, 32, 64)
N_SWEPT = 4

_PAGE = """# What more processes gain

Written by `tools/bench/scale_out.py`, whose docstring says what is measured; the formulas are
those of [scale-out](../scale-out.md). {n_cores} cores, one thread each process, load {load:.1f}
before the run, Python {python}. Medians of {repeats} repeats. Rows marked *computed* are not
measured.

## Candidates, by accelerate

Seconds of a step of GCG. Losses found by two processes are those found by one: the largest
difference over all steps was {gap:.1e}.

{candidates}
## Training, by Lightning's ddp

Seconds of a step, each process with a batch of its own.

{training}
## A sweep of {n_swept} runs, by Hydra's joblib launcher

{sweep}
## {n_requests} requests to a server that takes {service_s} s for each

{remote}"""


def main() -> None:
    """Parse the command line, measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        candidates, gap = measure_candidates(folder, options.steps, options.repeats)
        training = measure_training(folder, 10 * options.steps, options.repeats)
        sweep = measure_sweep(folder, 20 * options.steps, options.repeats)
    page = _PAGE.format(
        n_cores=os.cpu_count(),
        load=load,
        python=platform.python_version(),
        repeats=options.repeats,
        gap=gap,
        candidates=show_candidates(candidates),
        training=show_training(training),
        n_swept=N_SWEPT,
        sweep=show_sweep(sweep),
        n_requests=N_REQUESTS,
        service_s=SERVICE_S,
        remote=show_remote(measure_remote(options.repeats)),
    )
    options.out.write_text(page, encoding="utf-8")
    print(page)


def measure_candidates(
    folder: Path, n_steps: int, repeats: int
) -> tuple[dict[int, tuple[float, float]], float]:
    """Return a step's seconds of gradients and of losses by processes, and how losses differ."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += ["--num_processes=2", "--num_machines=1", "--mixed_precision=no"]
    launch += ["--dynamo_backend=no"]
    rows: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    losses: dict[int, list[float]] = {}
    for _ in range(repeats):
        for n, command in {1: [sys.executable], 2: launch}.items():
            out = folder / f"candidates-{n}.json"
            _run([*command, str(WORKER), str(out), str(n_steps)], folder)
            held = json.loads(out.read_text(encoding="utf-8"))
            rows[n] += held["rows"]
            losses[n] = held["losses"]
    gap = max(abs(a - b) for a, b in zip(losses[1], losses[2], strict=True))
    return {n: _medians(held) for n, held in rows.items()}, gap


def _medians(rows: Sequence[tuple[float, float]]) -> tuple[float, float]:
    gradients, losses = zip(*rows, strict=True)
    return statistics.median(gradients), statistics.median(losses)


def measure_training(folder: Path, n_steps: int, repeats: int) -> dict[int, float]:
    """Return the seconds of a training step by processes, from runs of two lengths."""
    xlm = Path(sysconfig.get_path("scripts")) / "xlm"
    found: dict[int, list[float]] = {1: [], 2: []}
    for repeat in range(repeats):
        for n, strategy in {1: "cpu", 2: "ddp"}.items():
            took: list[float] = []
            for length in (n_steps, 5 * n_steps):
                command = [sys.executable, str(xlm), "job_type=train", "experiment=star_easy_arlm"]
                command += [f"job_name=t{n}-{repeat}-{length}", f"trainer_strategy={strategy}"]
                command += [f"trainer.devices={n}", "trainer.accelerator=cpu"]
                command += [f"trainer.max_steps={length}", f"trainer.val_check_interval={10**6}"]
                took.append(_run(command, folder))
            found[n].append((took[1] - took[0]) / (4 * n_steps))
    return {n: statistics.median(held) for n, held in found.items()}


def measure_sweep(folder: Path, n_steps: int, repeats: int) -> dict[int, float]:
    """Return the seconds of a sweep by jobs at a time, the start of its processes included."""
    found: dict[int, list[float]] = {1: [], 2: []}
    for repeat in range(repeats):
        for n, held in found.items():
            command = [sys.executable, "-m", "pellucid.recipes", "-m", "recipe=gcg__zou2023"]
            command += [f"seed={','.join(map(str, range(N_SWEPT)))}", f"num_steps={n_steps}"]
            command += ["model=zoo:tiny-chat", "overrides.n_candidates=64"]
            command += [f"hydra.launcher.n_jobs={n}", f"out={folder / f'sweep-{n}-{repeat}'}"]
            held.append(_run(command, folder))
    return {n: statistics.median(held) for n, held in found.items()}


def measure_remote(repeats: int) -> dict[int, float]:
    """Return the seconds of all requests by how many are in flight."""
    found: dict[int, list[float]] = {n: [] for n in IN_FLIGHT}
    texts = [f"prompt {number}" for number in range(N_REQUESTS)]
    with _server() as url:
        for _ in range(repeats):
            for n, held in found.items():
                model = LiteLLMModel("openai/slow", url, "none", max_concurrent_requests=n)
                model(["warm up"])
                began = time.perf_counter()
                model(texts)
                held.append(time.perf_counter() - began)
    return {n: statistics.median(held) for n, held in found.items()}


def _run(command: Sequence[str], folder: Path) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PELLUCID_TYPECHECK": "0"}
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - began


class _Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: the second would wait for the first's acknowledgement

    def do_POST(self) -> None:
        """Answer after a while."""
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(SERVICE_S)
        message = {"role": "assistant", "content": "ok"}
        usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        body = json.dumps(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "slow",
                "choices": choices,
                "usage": usage,
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""
        del format, args


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # by default five may wait, and the others try again a second later


@contextmanager
def _server() -> Generator[str]:
    server = _Server(("127.0.0.1", 0), _Slow)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def show_candidates(found: dict[int, tuple[float, float]]) -> str:
    """Return the table of candidates; beyond two processes, T(p) = g + l / p + c."""
    (gradients, losses), (_, shared) = found[1], found[2]
    exchange = max(0.0, shared - losses / 2)
    rows = [_row(n, *held, found[1]) for n, held in found.items()]
    rows += [_row(f"{n}, computed", gradients, losses / n + exchange, found[1]) for n in BEYOND]
    return _table(["processes", "gradients", "losses", "step", "speed-up"], rows)


def _row(name: int | str, gradients: float, losses: float, one: tuple[float, float]) -> list[str]:
    step = gradients + losses
    return [str(name), *(f"{t:.3f}" for t in (gradients, losses, step)), f"{sum(one) / step:.2f}x"]


def show_training(found: dict[int, float]) -> str:
    """Return the table of training; beyond two processes, T(p) = t + 2 (p - 1) / p e."""
    exchange = max(0.0, found[2] - found[1])
    rows = [(str(n), took, n) for n, took in found.items()]
    rows += [(f"{n}, computed", found[1] + 2 * (n - 1) / n * exchange, n) for n in BEYOND]
    return _table(
        ["processes", "step", "examples a second, to one process's"],
        [[name, f"{took:.4f}", f"{n * found[1] / took:.2f}x"] for name, took, n in rows],
    )


def show_sweep(found: dict[int, float]) -> str:
    """Return the table of the sweep."""
    rows = [[str(n), f"{took:.1f}", f"{found[1] / took:.2f}x"] for n, took in found.items()]
    return _table(["jobs at a time", "seconds", "speed-up"], rows)


def show_remote(found: dict[int, float]) -> str:
    """Return the table of requests, beside what the server alone takes."""
    ideal = {n: math.ceil(N_REQUESTS / n) * SERVICE_S for n in found}
    rows = [
        [str(n), f"{took:.2f}", f"{ideal[n]:.2f}", f"{took / ideal[n]:.2f}"]
        for n, took in found.items()
    ]
    return _table(["in flight", "seconds", "of the server alone", "ratio"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---:"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
