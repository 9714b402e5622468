import sys
from pathlib import Path

import pytest

from pellucid.api import RetryPolicy

# The import mode of this workspace keeps test folders off the path; the server lies beside them.
sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def quick():
    """Retries that do not make anybody wait."""
    return RetryPolicy(max_attempts=4, first_delay_s=0.01, longest_delay_s=0.05, longest_wait_s=2)


@pytest.fixture
def serve():
    """Starts loopback servers that live as long as the test: `serve(chat=..., fault=...)`."""
    from contextlib import ExitStack

    from loopback import LoopbackServer

    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(LoopbackServer(**options))


@pytest.fixture(scope="session")
def rank_file(tmp_path_factory):
    """A file of ranks as tiktoken writes them: the bytes, and some merges of an English text."""
    from base64 import b64encode
    from itertools import pairwise

    text = "the red cat and the dog say hello to you and to the sun and here is the red hat " * 3
    words = [[bytes([b]) for b in f" {word}".encode()] for word in text.split()]
    ranks = [bytes([b]) for b in range(256)]
    for _ in range(60):
        counts = {}
        for word in words:
            for pair in pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        ranks.append(b"".join(best))
        words = [_merge(word, best) for word in words]
    path = tmp_path_factory.mktemp("ranks") / "tiny.tiktoken"
    lines = [f"{b64encode(token).decode()} {rank}" for rank, token in enumerate(ranks)]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    return path


def _merge(word, pair):
    merged = []
    for part in word:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged
