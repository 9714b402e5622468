"""Measures the API backends against servers on loopback, and writes docs/measurements/api.md.

    uv run python tools/bench/api.py [--requests 2000] [--repeats 5] [--out FILE]

Throughput: 64 requests in flight against a server, in a process of its own, that answers at once.
Bare httpx posts the same JSON and parses what comes back; contestants run in turn within each
repeat; processor time is that of the client's process. Schedule: 1,000 requests of which one in
twenty fails, at random, on a server that takes 0.4 s for each; the ideal is the server's time
shared evenly by the slots, which no schedule undercuts. Memory: by how much the resident size of a
process grows at most while it is answered 10,000 times from the cache.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from pellucid.api import LiteLLMModel, RetryPolicy

IN_FLIGHT = 64
SERVICE_S, N_FAULTY, SHARE, SLOTS = 0.4, 1000, 0.05, 25
ANSWER = {
    "id": "chat-1",
    "object": "chat.completion",
    "created": 0,
    "model": "instant",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ok"}}
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
}
Rows = dict[str, list[tuple[float, float]]]
DEFAULT_OUT = Path(__file__).parents[2] / "docs/measurements/api.md"


def main() -> None:
    """Parse the command line, measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--faulty", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(_serve(faulty=args.faulty))
        return
    load = os.getloadavg()[0]
    with _server() as url:
        rows = _race(url, args.requests, args.repeats)
        memory = _measure_memory(url)
    with _server("--faulty") as url:
        schedule = _measure_schedule(url)
    text = _render(rows, schedule, memory, load, args)
    args.out.write_text(text, encoding="utf-8")
    print(text)


def _race(url: str, n: int, repeats: int) -> Rows:
    """Return requests per second and CPU ms of each by contestant, a pair for each repeat."""
    models = {
        route: LiteLLMModel(
            "openai/instant", url, "none", route=route, max_concurrent_requests=IN_FLIGHT
        )
        for route in ("http", "litellm")
    }
    texts = [f"prompt {i}" for i in range(n)]
    few = texts[: n // 5]
    contestants: dict[str, tuple[Callable[[], Any], int]] = {
        "bare httpx": (lambda: asyncio.run(_post_all(url, texts)), n),
        "LiteLLMModel, asked directly": (lambda: models["http"](texts), n),
        "LiteLLMModel, through litellm": (lambda: models["litellm"](few), len(few)),
    }
    found: Rows = {name: [] for name in contestants}
    for model in models.values():
        model(texts[:IN_FLIGHT])
    for _ in range(repeats):
        for name, (run, count) in contestants.items():
            began, cpu = time.perf_counter(), time.process_time()
            run()
            cpu_ms = 1000 * (time.process_time() - cpu) / count
            found[name].append((count / (time.perf_counter() - began), cpu_ms))
    return found


async def _post_all(url: str, texts: list[str]) -> list[str]:
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    waiting, answers = iter(enumerate(texts)), [""] * len(texts)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:

        async def work() -> None:
            for i, text in waiting:
                messages = [{"role": "user", "content": text}]
                body = {"model": "instant", "messages": messages, "max_tokens": 128}
                response = await client.post(f"{url}/chat/completions", json=body)
                answers[i] = response.json()["choices"][0]["message"]["content"]

        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(work())
    return answers


def _measure_schedule(url: str) -> tuple[float, float, int]:
    """Return seconds taken, seconds of the ideal schedule, and requests sent."""
    model = LiteLLMModel(
        "openai/faulty",
        url,
        max_concurrent_requests=SLOTS,
        retry=RetryPolicy(),
        strict=False,
        timeout_s=10 * SERVICE_S,
    )
    model(["warm up"])
    model.reset_usage_stats()
    texts = [f"prompt {i}" for i in range(N_FAULTY)]
    began = time.perf_counter()
    output = model(texts, return_full_output=True)
    took = time.perf_counter() - began
    pairs = list(zip(output.generated_response_strs, output.errors, strict=True))
    if any((answer is None) == (error is None) for answer, error in pairs):
        raise SystemExit("a prompt has not exactly one answer or one error.")
    sent = model.get_request_stats().requests
    return took, sent * SERVICE_S / SLOTS, sent


def _measure_memory(url: str) -> float:
    """Return by how many MB 10,000 cached requests raise the peak."""
    with tempfile.TemporaryDirectory() as folder:
        model = LiteLLMModel("openai/instant", url, cache_dir=folder)
        texts = [f"prompt {i}" for i in range(500)]
        model(texts)
        model(texts)
        before = _resident_mb()
        grown = 0.0
        for _ in range(20):
            model(texts)
            grown = max(grown, _resident_mb() - before)
        model.close()
    return grown


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


@contextmanager
def _server(*options: str) -> Any:
    command = [sys.executable, __file__, "--serve", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            yield f"http://127.0.0.1:{int(line)}/v1"
        finally:
            process.terminate()


async def _serve(*, faulty: bool) -> None:
    handle = _answer_with_faults(random.Random(0)) if faulty else _answer_at_once
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


def _frame(status: int, body: Any, headers: str = "") -> bytes:
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n{headers}"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


async def _read_request(reader: asyncio.StreamReader) -> bool:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return False
    (length,) = (
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length")
    )
    await reader.readexactly(length)
    return True


async def _answer_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    response = _frame(200, ANSWER)
    while await _read_request(reader):
        writer.write(response)
        await writer.drain()
    writer.close()


def _answer_with_faults(chance: random.Random) -> Handler:
    good = _frame(200, ANSWER)
    bad = [
        _frame(429, {}),
        _frame(429, {}, "retry-after: 1\r\n"),
        _frame(500, {}),
        _frame(503, {}),
        _frame(400, {}),
        good[: len(good) - 9] + b" " * 9,
        b"",
    ]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await _read_request(reader):
            await asyncio.sleep(SERVICE_S)
            response = chance.choice(bad) if chance.random() < SHARE else good
            if not response:
                break
            writer.write(response)
            await writer.drain()
        writer.close()

    return answer


def _render(
    rows: Rows,
    schedule: tuple[float, float, int],
    memory: float,
    load: float,
    args: argparse.Namespace,
) -> str:
    anchor = rows["bare httpx"]
    table = [
        f"| {name} | {_median(r for r, _ in held):.0f} | {_median(ms for _, ms in held):.2f} | "
        f"{_median(a[0] / b[0] for a, b in zip(held, anchor, strict=True)):.2f} | "
        f"{_median(b[1] / a[1] for a, b in zip(held, anchor, strict=True)):.2f} |"
        for name, held in rows.items()
    ]
    took, ideal, sent = schedule
    return "\n".join(
        [
            "# API backends on loopback",
            "",
            "Written by `tools/bench/api.py`, whose docstring says what is measured.",
            f"Python {platform.python_version()}, httpx {httpx.__version__}.",
            f"{args.repeats} repeats of {args.requests} requests, {IN_FLIGHT} in flight.",
            f"{os.cpu_count()} cores, whose load was {load:.1f} before the run.",
            "",
            "| against an instant server | requests/s | CPU ms each | speed to httpx's | by CPU |",
            "|---|---|---|---|---|",
            *table,
            "",
            "| what | figure |",
            "|---|---|",
            f"| {N_FAULTY:,} requests, {SHARE:.0%} random faults: requests sent | {sent} |",
            f"| wall time | {took:.2f} s |",
            f"| ideal schedule | {ideal:.2f} s |",
            f"| ratio | {took / ideal:.2f} |",
            f"| resident memory over 10,000 cached requests | +{memory:.1f} MB |",
            "",
            "Medians over the repeats; the ratios are of the same repeat, above 1 means faster.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
