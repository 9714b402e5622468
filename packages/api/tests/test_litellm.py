import asyncio
import multiprocessing
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import last_text

from pellucid.api import (
    BatchError,
    LiteLLMModel,
    SpendingLimitError,
)
from pellucid.api._chat import read_completion
from pellucid.core import ArgumentError, BudgetError, RequirementError

ROUTES = ("http", "litellm")


@pytest.mark.parametrize("route", ROUTES)
def test_a_request_is_what_was_asked_for(serve, route):
    server = serve(chat=lambda body: ("A", [("A", -0.5), ("B", -1.5)]))
    model = LiteLLMModel(
        "openai/x",
        server.openai_url,
        "a-key-0123",
        system_prompt="Be brief.",
        request_params={"stop": ["\n"]},
        route=route,
    )
    talk = [{"role": "system", "content": "Be long."}, {"role": "user", "content": "hi"}]
    output = model.invoke_from_texts(
        ["hi", talk], require_generation=True, require_first_token_logprobs=True, max_new_tokens=7
    )
    assert output.generated_response_strs == ["A", "A"]
    assert output.response_first_token_logprobs == [{"A": -0.5, "B": -1.5}] * 2
    bodies = {len(seen.body["messages"][0]["content"]): seen.body for seen in server.seen}
    brief = bodies[len("Be brief.")]
    assert [m["role"] for m in brief["messages"]] == ["system", "user"]
    assert bodies[len("Be long.")]["messages"] == talk
    wanted = {"model": "x", "max_tokens": 7, "temperature": 0, "stop": ["\n"], "top_logprobs": 20}
    assert {name: brief.get(name) for name in wanted} == wanted
    assert server.seen[0].headers["authorization"] == "Bearer a-key-0123"
    model.invoke_from_texts(["hi"], require_first_token_logprobs=True)
    assert server.seen[-1].body["max_tokens"] == 1


def test_answers_come_in_order_and_no_more_are_under_way_than_allowed(serve):
    server = serve(service_s=0.02)
    model = LiteLLMModel("openai/x", server.openai_url, max_concurrent_requests=3)
    texts = [f"{i}" for i in range(12)]
    answers: dict[int, list[str]] = {}
    threads = [
        threading.Thread(target=lambda i=i: answers.update({i: model(texts)})) for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers[0] == answers[1] == [f"you said {text}" for text in texts]
    assert server.most_in_flight == 3


def test_a_model_can_be_called_inside_a_running_loop(serve):
    model = LiteLLMModel("openai/x", serve().openai_url)

    async def cell():
        return model(["hello"])

    assert asyncio.run(cell()) == asyncio.run(cell()) == ["you said hello"]


def test_a_model_can_be_called_after_a_fork(serve):
    server = serve()
    model = LiteLLMModel("openai/x", server.openai_url)
    model(["hello"])
    context = multiprocessing.get_context("fork")
    child = context.Process(target=lambda: exit(model(["hello"]) != ["you said hello"]))
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_tokens_are_the_providers_own(serve):
    model = LiteLLMModel("openai/x", serve().openai_url, usd_per_million_tokens=(1.0, 2.0))
    model(["hello"])
    stats = model.get_request_stats()
    assert (stats.prompt_tokens, stats.completion_tokens) == (5, len("you said hello"))
    assert stats.estimated_tokens == 0
    assert stats.usd == pytest.approx((5 + 2 * len("you said hello")) / 1e6)
    assert model.get_usage_stats()["total_tokens"] == 5 + len("you said hello")


def test_tokens_that_nobody_counted_are_marked_as_estimated(serve):
    model = LiteLLMModel("openai/x", serve(counts_tokens=False).openai_url)
    model(["hello"])
    stats = model.get_request_stats()
    assert stats.estimated_tokens == stats.prompt_tokens + stats.completion_tokens > 0
    assert stats.usd is None


def test_a_budget_ends_the_requests(serve):
    server = serve(chat=lambda body: "ok")
    model = LiteLLMModel("openai/x", server.openai_url, budget_tokens=100, strict=False)
    output = model([f"{i:04d}" for i in range(40)], max_new_tokens=10, return_full_output=True)
    refused = [error for error in output.errors if error is not None]
    assert all(isinstance(error, SpendingLimitError) for error in refused)
    assert len(server.seen) == 40 - len(refused) >= 10
    assert model.spent["tokens"] <= 100
    model.reset_usage_stats()
    assert model.spent["tokens"] > 0


def test_a_budget_in_money_needs_a_price(serve):
    server = serve()
    with pytest.raises(RequirementError, match="usd_per_million_tokens"):
        LiteLLMModel("openai/x", server.openai_url, budget_usd=1.0)(["hello"])
    poor = LiteLLMModel(
        "openai/x", server.openai_url, budget_usd=1e-6, usd_per_million_tokens=100.0
    )
    with pytest.raises(BatchError, match="Raise budget_usd"):
        poor(["hello"])
    assert not server.seen


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model_name": ""}, ArgumentError, "model_name is empty"),
        ({"base_url": "localhost:8000"}, ArgumentError, "no address"),
        ({"route": "pigeon"}, ArgumentError, "unknown route 'pigeon'"),
        ({"base_url": None, "route": "http"}, ArgumentError, "Give base_url"),
        ({"max_concurrent_requests": 0}, ArgumentError, "max_concurrent_requests"),
        ({"budget_tokens": 0}, BudgetError, "budget_tokens"),
        ({"usd_per_million_tokens": -1.0}, ArgumentError, "usd_per_million_tokens"),
        ({"request_params": {"messages": []}}, ArgumentError, "messages"),
        ({"client_params": {"api_version": "1"}}, ArgumentError, "route='litellm'"),
    ],
)
def test_arguments_without_meaning_are_refused(arguments, error, message, monkeypatch):
    # The public boundary, not the hook of test runs, refuses what is merely of another kind.
    given = {"model_name": "openai/x", "base_url": "http://127.0.0.1:9/v1", **arguments}
    if arguments.get("route") == "pigeon":
        from pellucid.api._litellm import _choose_route

        with pytest.raises(error, match=message):
            _choose_route("pigeon", "openai/x", None, False)
        return
    with pytest.raises(error, match=message):
        LiteLLMModel(**given)


def test_asking_for_nothing_or_a_prefill_is_refused():
    model = LiteLLMModel("openai/x", "http://127.0.0.1:9/v1")
    with pytest.raises(ArgumentError, match="nothing is asked for"):
        model.invoke_from_texts(["hello"])
    with pytest.raises(ArgumentError, match="require_target_prefill"):
        model.invoke_from_texts(["hello"], require_target_prefill=True)


@pytest.mark.parametrize(
    ("name", "base_url", "route", "wire"),
    [
        ("openai/gpt", None, "litellm", "openai/gpt"),
        ("openai/gpt", "http://h/v1", "http", "gpt"),
        ("openai//a/path", "http://h/v1", "http", "/a/path"),
        ("hosted_vllm/org/name", "http://h/v1", "http", "org/name"),
        ("plain", "http://h/v1", "http", "plain"),
        ("anthropic/claude", "http://h", "litellm", "anthropic/claude"),
    ],
)
def test_what_speaks_the_openai_protocol_is_asked_directly(name, base_url, route, wire):
    model = LiteLLMModel(name, base_url)
    assert (model._route, model._wire_name) == (route, wire)


@given(st.lists(st.tuples(st.text(max_size=2), st.floats(-30, 0)), min_size=1, max_size=8))
def test_tokens_that_read_the_same_share_their_probability(top):
    import math

    entries = [{"token": token, "logprob": value} for token, value in top]
    choice = {"message": {"content": "x"}, "logprobs": {"content": [{"top_logprobs": entries}]}}
    messages = [{"role": "user", "content": "x"}]
    reply = read_completion({"choices": [choice]}, messages, with_logprobs=True)
    found = reply.answers[0]["logprobs"]
    total = math.fsum(math.exp(value) for _, value in top)
    assert math.fsum(math.exp(value) for value in found.values()) == pytest.approx(total, rel=1e-6)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_the_last_message_is_what_a_text_becomes(serve):
    server = serve()
    LiteLLMModel("openai/x", server.openai_url)(["hello"])
    assert last_text(server.seen[0].body) == "hello"
