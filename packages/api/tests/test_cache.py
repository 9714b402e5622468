"""The cache: what it finds, and what processes and kills do to it."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from loopback import last_text

from pellucid.api import CacheError, EncoderOpenAIModel, LiteLLMModel
from pellucid.api._cache import ResponseCache, request_key

FORK = multiprocessing.get_context("fork")
TESTS = str(Path(__file__).parent)


def test_a_key_is_that_of_the_whole_request_in_any_order():
    one = request_key({"model": "x", "body": {"a": 1, "b": [2, "é"]}})
    assert one == request_key({"body": {"b": [2, "é"], "a": 1}, "model": "x"})
    for other in ({"model": "y"}, {"body": {"a": 1, "b": ["é", 2]}}):
        assert one != request_key({"model": "x", "body": {"a": 1, "b": [2, "é"]}, **other})


def test_answers_come_back(tmp_path):
    cache = ResponseCache(tmp_path / "new" / "folder")
    answers = {f"key {i}": {"text": f"é {i}", "logprobs": {"a": -0.5}} for i in range(1200)}
    cache.put_many(answers)
    assert cache.get_many([*answers, "unknown"]) == answers
    cache.close()
    assert ResponseCache(tmp_path / "new" / "folder").get_many(["key 7"]) == {
        "key 7": answers["key 7"]
    }


def test_an_answer_is_asked_for_once(serve, tmp_path):
    server = serve()
    for _ in range(2):
        model = LiteLLMModel("openai/x", server.openai_url, cache_dir=tmp_path)
        assert model(["a", "b", "a"]) == ["you said a", "you said b", "you said a"]
        model.close()
    assert len(server.seen) == 2
    stats = model.get_request_stats()
    assert (stats.requests, stats.cached_samples, stats.prompt_tokens) == (0, 3, 0)


def test_whatever_changes_the_answer_changes_the_key(serve, tmp_path):
    server = serve(chat=lambda body: (last_text(body), [("a", -0.5)]))
    model = LiteLLMModel("openai/x", server.openai_url, cache_dir=tmp_path)
    model(["a"])
    model(["a"], max_new_tokens=3)
    model.invoke_from_texts(["a"], require_first_token_logprobs=True)
    for name, options in (
        ("openai/y", {}),
        ("openai/x", {"system_prompt": "Be brief."}),
        ("openai/x", {"request_params": {"stop": ["."]}}),
    ):
        LiteLLMModel(name, server.openai_url, cache_dir=tmp_path, **options)(["a"])
    assert len(server.seen) == 6


def test_what_is_drawn_twice_is_two_answers(serve, tmp_path):
    server = serve(chat=lambda body: f"answer {len(server.seen)}")
    model = LiteLLMModel(
        "openai/x", server.openai_url, cache_dir=tmp_path, max_concurrent_requests=1
    )
    first = model(["a", "a", "a"], greedy_decode=False)
    assert len(set(first)) == 3
    assert model(["a", "a", "a"], greedy_decode=False) == first
    assert len(server.seen) == 3


def test_encoders_keep_vectors_text_by_text(serve, tmp_path):
    server = serve()
    model = EncoderOpenAIModel("x", base_url=server.openai_url, cache_dir=tmp_path)
    before = model(["a", "b", "c"])
    after = model(["c", "d", "a"])
    assert after[[0, 2]].equal(before[[2, 0]])
    assert [seen.body["input"] for seen in server.seen] == [["a", "b", "c"], ["d"]]


def test_failures_are_not_kept(serve, tmp_path, quick):
    from loopback import Fault

    server = serve(fault=lambda number, body: Fault(status=400) if number == 0 else None)
    model = LiteLLMModel(
        "openai/x", server.openai_url, cache_dir=tmp_path, strict=False, retry=quick
    )
    assert model(["a"]) == [None]
    assert model(["a"]) == ["you said a"]


def test_a_file_that_is_no_cache_is_named(tmp_path):
    (tmp_path / "responses.sqlite3").write_bytes(b"no database, and long enough to see that" * 99)
    with pytest.raises(CacheError, match=r"responses\.sqlite3.*Delete it"):
        ResponseCache(tmp_path).get_many(["a"])


def write(directory, name, n):
    cache = ResponseCache(directory)
    for i in range(n):
        cache.put_many({f"{name} {i}": "x" * 200, f"shared {i}": f"{i}"})
        assert cache.get_many([f"{name} {i}"]) == {f"{name} {i}": "x" * 200}


def test_two_processes_share_a_cache(tmp_path):
    workers = [FORK.Process(target=write, args=(tmp_path, name, 300)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    cache = ResponseCache(tmp_path)
    assert len(cache) == 900
    assert cache.get_many(["shared 7", "a 299"]) == {"shared 7": "7", "a 299": "x" * 200}
    held = sqlite3.connect(tmp_path / "responses.sqlite3")
    assert held.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    held.close()


KILLED = """
import sys
from pellucid.api._cache import ResponseCache
cache = ResponseCache(sys.argv[1])
for i in range(10**9):
    cache.put_many({f"{i}": "x" * 500})
    print(i, flush=True)
"""


def test_a_killed_process_leaves_a_usable_cache(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        for _ in range(500):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        kept = 499 + len(process.stdout.read().splitlines())
    cache = ResponseCache(tmp_path)
    assert len(cache) >= kept
    assert len(cache.get_many([str(i) for i in range(kept)])) == kept
    cache.put_many({"new": "y"})
    assert cache.get_many(["new"]) == {"new": "y"}


def test_a_fork_opens_the_cache_for_itself(tmp_path):
    cache = ResponseCache(tmp_path)
    cache.put_many({"a": 1})
    child = FORK.Process(target=lambda: sys.exit(cache.get_many(["a"]) != {"a": 1}))
    child.start()
    child.join()
    assert child.exitcode == 0


FLAT = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from loopback import LoopbackServer
from pellucid.api import LiteLLMModel

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

with LoopbackServer(chat=lambda body: "x" * 2000) as server:
    model = LiteLLMModel("openai/x", server.openai_url, cache_dir=sys.argv[1])
    texts = [f"prompt {i}" for i in range(500)]
    model(texts)
    model(texts)
    before = peak_mb()
    for _ in range(20):
        assert model(texts)[7] == "x" * 2000
    assert model.get_request_stats().requests == 500
    assert model.get_request_stats().cached_samples == 10_500
    print(peak_mb() - before)
"""


def test_memory_is_flat_over_ten_thousand_cached_requests(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FLAT, str(tmp_path), TESTS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    grown = float(done.stdout)
    assert grown < 5, f"{grown:.1f} MB more after 10,000 cached requests"
