"""What importing and installing the package brings with it."""

import re
import subprocess
import sys
from importlib.metadata import distribution

HEAVY = ("accelerate", "google.genai", "httpx", "lightning", "litellm", "openai", "tiktoken")
HEAVY += ("transformers", "voyageai")

PROBE = f"""
import sys
import pellucid.core
import time
began = time.process_time()
import pellucid.api as api
took = time.process_time() - began
api.LiteLLMModel("openai/x", "http://127.0.0.1:9/v1", cache_dir="nowhere")
api.EncoderOpenAIModel(), api.EncoderGeminiModel(), api.EncoderVoyageModel(), api.OpenAITokenizer()
import pathlib
assert not pathlib.Path("nowhere").exists()
print(took, [name for name in {HEAVY!r} if name in sys.modules])
"""


def test_importing_and_constructing_is_light(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    took, loaded = done.stdout.strip().split(" ", 1)
    assert loaded == "[]"
    assert float(took) < 1.0


def required(name, seen):
    """Distributions that installing one brings, extras left out, as far as installed here."""
    for line in distribution(name).requires or []:
        requirement, _, marker = line.partition(";")
        found = re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")
        if "extra" in marker or found in seen:
            continue
        seen.add(found)
        try:
            required(found, seen)
        except ModuleNotFoundError:  # not for this platform
            continue
    return seen


def test_installing_the_package_alone_brings_no_heavy_ones():
    brought = required("pellucid-api", set())
    assert {"httpx", "pellucid-core", "torch"} <= brought
    heavy = {"accelerate", "google-genai", "lightning", "litellm", "openai", "tiktoken"}
    assert not brought & {*heavy, "tokenizers", "transformers", "voyageai"}
