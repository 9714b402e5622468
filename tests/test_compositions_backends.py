"""One method over every kind of model, and models of one kind as drafts for those of another."""

import contextlib
import importlib.util
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pellucid import recipes
from pellucid.api import LiteLLMModel
from pellucid.bridge import TransformerBridge
from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import Targets
from pellucid.hf import LMHFModel
from pellucid.losses import PrefillCELoss
from pellucid.optimizers import ProbeSamplingGCGOptimizer
from pellucid.testing import TinyLM, TinyTokenizer, tiny_gpt2, tiny_llama, tiny_tokenizer
from pellucid.tptt import TpttConfig, TpttModel

TEMPLATE = f"Tell me {P} now"
TARGETS = Targets(target_response_strs=["Yes."])
LOOPBACK = Path(__file__).parent.parent / "packages/api/tests/loopback.py"


def make_tptt(mag_weight: float) -> TpttModel:
    base = tiny_llama()
    config = TpttConfig(base.config, mag_weight=mag_weight, max_chunk_size=4)
    return TpttModel(config, backbone=base).eval()


def make_hf() -> LMHFModel:
    return LMHFModel(tiny_llama(), tokenizer=tiny_tokenizer())


def make_bridged() -> LMHFModel:
    return LMHFModel(TransformerBridge(tiny_llama(), tokenizer=tiny_tokenizer()))


def make_linear(mag_weight: float = 0.5) -> LMHFModel:
    return LMHFModel(make_tptt(mag_weight), tokenizer=tiny_tokenizer())


def make_bridged_linear() -> LMHFModel:
    return LMHFModel(TransformerBridge(make_tptt(0.5), tokenizer=tiny_tokenizer()))


LOCAL = {
    "hf": make_hf,
    "bridge": make_bridged,
    "tptt": make_linear,
    "bridged tptt": make_bridged_linear,
}


@contextlib.contextmanager
def served(model: LMHFModel) -> Any:
    """A model behind a real HTTP server on loopback; yields it as whoever talks to it has it."""
    spec = importlib.util.spec_from_file_location("loopback", LOOPBACK)
    loopback: Any = importlib.util.module_from_spec(spec)
    sys.modules["loopback"] = loopback  # its dataclasses look themselves up
    spec.loader.exec_module(loopback)
    lock = threading.Lock()

    def chat(body: dict[str, Any]) -> tuple[str, list[tuple[str, float]]]:
        texts = [message["content"] for message in body["messages"]]
        with lock:
            output = model.invoke_from_texts(texts, require_first_token_logprobs=True)
        (logprobs,) = output.response_first_token_logprobs
        return next(iter(logprobs)), list(logprobs.items())

    with loopback.LoopbackServer(chat=chat) as server:
        yield LiteLLMModel("openai/tiny", server.openai_url, tokenizer=model.tokenizer)


def find_token() -> str:
    """A first token that all of them think of, with much to gain: one that few of these are below.

    The last of them is lost from sight by almost every change of the trigger.
    """
    texts = ["Tell me a b c d now"]
    plain, linear = (
        make().invoke_from_texts(texts, require_first_token_logprobs=True)
        for make in (make_hf, make_linear)
    )
    likely, others = (output.response_first_token_logprobs[0] for output in (plain, linear))
    known = sorted((token for token in likely if token in others), key=likely.__getitem__)
    return known[len(known) // 3]


def run_recipe(model: Any, token: str) -> Any:
    """The same call for every model."""
    return recipes.run(
        "prs__andriushchenko2024",
        model=model,
        templates=[TEMPLATE],
        initial_trigger="a b c d",
        seed=0,
        num_steps=4,
        overrides={"n_candidates": 8, "tokenizer": tiny_tokenizer()},
        loss_overrides={"first-token-nll": {"target_token": token, "missing_logprob_value": -30.0}},
    )


def test_one_recipe_runs_unchanged_over_every_kind_of_model() -> None:
    token = find_token()
    found = {name: run_recipe(make(), token) for name, make in LOCAL.items()}
    found["tptt without its share"] = run_recipe(make_linear(0.0), token)
    with served(make_hf()) as remote:
        found["http"] = run_recipe(remote, token)
    for name, result in found.items():
        assert result.best_loss < result.initial_loss - 0.2, name
    # Models that compute the same take the same way, whatever stands between.
    for same in ("bridge", "tptt without its share", "http"):
        assert found[same].best_trigger_str == found["hf"].best_trigger_str
        assert found[same].losses == pytest.approx(found["hf"].losses, abs=1e-4)
    assert found["bridged tptt"].losses == pytest.approx(found["tptt"].losses, abs=1e-4)
    assert found["tptt"].losses != pytest.approx(found["hf"].losses, abs=1e-3)


@pytest.mark.parametrize("name", ["gcg__zou2023", "pez__wen2023", "gcgp_pal__sitawarin2024"])
def test_white_box_recipes_take_the_same_way_through_a_bridge(name: str) -> None:
    few = {} if name.startswith("pez") else {"n_candidates": 8, "sample_topk": 8}
    plain, bridged = (
        recipes.run(
            name,
            model=make(),
            templates=[TEMPLATE],
            targets=["Yes."],
            initial_trigger="a b c d",
            seed=0,
            num_steps=2,
            overrides=few,
        )
        for make in (make_hf, make_bridged)
    )
    assert bridged.losses == pytest.approx(plain.losses, rel=1e-4)
    assert bridged.best_trigger_str == plain.best_trigger_str


DRAFTS = {
    **LOCAL,
    "another network": lambda: LMHFModel(tiny_gpt2(), tokenizer=tiny_tokenizer()),
    "another tokenizer": lambda: TinyLM(seed=1, tokenizer=TinyTokenizer()),
}


@pytest.mark.parametrize("draft", DRAFTS)
def test_any_backend_is_a_draft_model_of_probe_sampling(draft: str) -> None:
    search = ProbeSamplingGCGOptimizer(
        make_bridged(),
        PrefillCELoss(),
        draft_model=DRAFTS[draft](),
        num_steps=3,
        n_candidates=16,
        sample_topk=16,
        seed=0,
    )
    result = search.optimize_trigger([TEMPLATE], "a b c d", TARGETS)
    assert result.best_loss < result.initial_loss
    assert search.draft_model.get_usage_stats()["forward_samples"] > 0
