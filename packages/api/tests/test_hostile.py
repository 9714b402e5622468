"""Real clients against a server that does everything wrong."""

import random
import time

import pytest
from loopback import Fault, last_text

from pellucid.api import (
    BatchError,
    EncoderGeminiModel,
    EncoderOpenAIModel,
    EncoderVoyageModel,
    LiteLLMModel,
    RequestError,
    ResponseError,
    RetryPolicy,
)

# google-genai derives from an aiohttp class that does not want it, voyageai logs in an old way.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning"),
]

KEY = "sk-loopback-0123456789"
ROUTES = ("http", "litellm")


def empty(answer):
    answer["choices"][0]["message"]["content"] = ""
    return answer


def null(answer):
    answer["choices"][0]["message"]["content"] = None
    return answer


def withheld(answer):
    answer["choices"][0]["finish_reason"] = "content_filter"
    return null(answer)


def declined(answer):
    answer["choices"][0]["message"]["refusal"] = "I would rather not."
    return null(answer)


@pytest.fixture(autouse=True, scope="module")
def litellm_is_warm():
    """What litellm imports in its first request takes longer than the tests allow for one."""
    from loopback import LoopbackServer

    with LoopbackServer() as server:
        LiteLLMModel("openai/x", server.openai_url, KEY, route="litellm")(["hello"])


PASSING = {
    "429": Fault(status=429),
    "429 with Retry-After": Fault(status=429, headers={"Retry-After": "0.2"}),
    "429 with retry-after-ms": Fault(status=429, headers={"retry-after-ms": "50"}),
    "500": Fault(status=500),
    "503": Fault(status=503),
    "slow first byte": Fault(delay_s=1.5),
    "cut stream": Fault(cut=True),
    "malformed JSON": Fault(body=b'{"choices": [{"mess'),
    "empty body": Fault(body=b""),
    "no choices": Fault(body=b'{"choices": [], "model": "x", "object": "chat.completion"}'),
}


def ask(server, route, policy, **options):
    return LiteLLMModel(
        "openai/x",
        server.openai_url,
        KEY,
        route=route,
        timeout_s=1.0,
        retry=policy,
        strict=False,
        **options,
    )


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", PASSING)
def test_what_passes_is_tried_again(serve, quick, route, kind):
    server = serve(fault=lambda number, body: PASSING[kind] if number == 0 else None)
    model = ask(server, route, quick)
    began = time.monotonic()
    output = model(["hello"], return_full_output=True)
    assert output.generated_response_strs == ["you said hello"], output.errors
    assert output.errors == [None]
    assert len(server.seen) == 2
    if kind == "429 with Retry-After":
        assert time.monotonic() - began >= 0.2
    assert model.get_request_stats().retries == 1


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["429", "500", "cut stream", "malformed JSON"])
def test_what_does_not_pass_ends_in_an_error(serve, quick, route, kind):
    server = serve(fault=lambda number, body: PASSING[kind] if last_text(body) == "bad" else None)
    model = ask(server, route, quick)
    output = model(["good", "bad", "fine"], return_full_output=True)
    assert output.generated_response_strs == ["you said good", None, "you said fine"]
    good, error, fine = output.errors
    assert good is fine is None
    assert isinstance(error, RequestError)
    assert error.n_attempts == 4
    assert sum(last_text(seen.body) == "bad" for seen in server.seen) == 4


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_cannot_succeed_is_sent_once(serve, quick, route, status):
    server = serve(fault=lambda number, body: Fault(status=status))
    output = ask(server, route, quick)(["hello"], return_full_output=True)
    assert output.generated_response_strs == [None]
    assert output.errors[0].status == status
    assert len(server.seen) == 1


@pytest.mark.parametrize("route", ROUTES)
def test_an_account_without_money_is_not_asked_again(serve, quick, route):
    body = b'{"error": {"message": "you exceeded your quota", "code": "insufficient_quota"}}'
    server = serve(fault=lambda number, asked: Fault(status=429, body=body))
    output = ask(server, route, quick)(["hello"], return_full_output=True)
    assert output.errors[0].status == 429
    assert len(server.seen) == 1


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("change", "text"), [(empty, ""), (null, ""), (declined, "I would rather not.")]
)
def test_saying_nothing_is_an_answer(serve, quick, route, change, text):
    server = serve(fault=lambda number, body: Fault(change=change))
    output = ask(server, route, quick)(["hello"], return_full_output=True)
    assert (output.generated_response_strs, output.errors) == ([text], [None])
    assert len(server.seen) == 1


@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_that_is_withheld_is_an_error(serve, quick, route):
    server = serve(fault=lambda number, body: Fault(change=withheld))
    output = ask(server, route, quick)(["hello"], return_full_output=True)
    assert output.generated_response_strs == [None]
    assert isinstance(output.errors[0], ResponseError)
    assert "content_filter" in str(output.errors[0])


@pytest.mark.parametrize("route", ROUTES)
def test_a_server_without_log_probabilities_says_so(serve, quick, route):
    output = ask(serve(), route, quick).invoke_from_texts(
        ["hello"], require_first_token_logprobs=True
    )
    assert output.response_first_token_logprobs == [None]
    assert "gives no log-probabilities" in str(output.errors[0])


def test_a_strict_model_raises_and_keeps_what_was_answered(serve, quick):
    server = serve(
        fault=lambda number, body: Fault(status=400) if last_text(body) == "bad" else None
    )
    model = LiteLLMModel("openai/x", server.openai_url, retry=quick)
    with pytest.raises(BatchError, match="1 of 3 requests failed; the first, item 1") as caught:
        model(["good", "bad", "fine"])
    assert caught.value.output.generated_response_strs == ["you said good", None, "you said fine"]
    assert caught.value.errors[1].status == 400


def test_a_server_that_is_not_there_is_an_error(quick):
    model = LiteLLMModel("openai/x", "http://127.0.0.1:9/v1", retry=quick, strict=False)
    (error,) = model(["hello"], return_full_output=True).errors
    assert (error.n_attempts, error.is_transient) == (4, True)


def drop_one(answer):
    key = "data" if "data" in answer else "embeddings"
    return {**answer, key: answer[key][1:]}


def widen(answer):
    if "data" in answer:
        return {**answer, "data": [{**e, "embedding": [1.0, 2.0]} for e in answer["data"]]}
    return {**answer, "embeddings": [{"values": [1.0, 2.0]} for _ in answer["embeddings"]]}


def encoder(kind, server, policy, **options):
    kinds = {
        "openai": (EncoderOpenAIModel, server.openai_url),
        "gemini": (EncoderGeminiModel, server.url),
        "voyage": (EncoderVoyageModel, server.openai_url),
    }
    model, url = kinds[kind]
    return model(
        "an-encoder", d_model=8, api_key=KEY, base_url=url, retry=policy, strict=False, **options
    )


ENCODERS = ("openai", "gemini", "voyage")


def texts_of(body):
    if "input" in body:
        return body["input"]
    return [request["content"]["parts"][0]["text"] for request in body["requests"]]


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("name", ["429", "500", "cut stream", "malformed JSON"])
def test_encoders_try_again(serve, quick, kind, name):
    server = serve(fault=lambda number, body: PASSING[name] if number == 0 else None)
    output = encoder(kind, server, quick)(["a", "b"], return_full_output=True)
    assert output.errors == [None, None], output.errors
    assert output.output_embeddings.shape == (2, 8)
    assert len(server.seen) == 2


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("change", [drop_one, widen])
def test_a_wrong_count_or_width_is_an_error_of_the_texts_it_is_about(serve, quick, kind, change):
    server = serve(
        fault=lambda number, body: Fault(change=change) if "bad" in texts_of(body) else None
    )
    model = encoder(kind, server, quick)
    texts = ["a", "b", "bad", "c", "d"]
    output = model(texts, return_full_output=True)
    assert [error is not None for error in output.errors] == [t == "bad" for t in texts]
    rows = output.output_embeddings
    assert rows[2].isnan().all()
    assert not rows[[0, 1, 3, 4]].isnan().any()
    alone = encoder(kind, server, quick)(["a", "b", "c", "d"])
    assert rows[[0, 1, 3, 4]].equal(alone)


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_text_that_is_refused_does_not_lose_the_others(serve, quick, kind):
    server = serve(
        fault=lambda number, body: Fault(status=400) if "bad" in texts_of(body) else None
    )
    output = encoder(kind, server, quick)(["a", "bad", "b"], return_full_output=True)
    assert [error is None for error in output.errors] == [True, False, True]
    assert output.errors[1].status == 400


def test_a_thousand_requests_of_which_one_in_twenty_fails(serve):
    """Each prompt has one answer or one error, in order, none lost, none doubled."""
    chance, n, concurrent = random.Random(0), 1000, 25
    faults = [
        Fault(status=429),
        Fault(status=429, headers={"retry-after": "0.3"}),
        Fault(status=500),
        Fault(delay_s=0.1),
        Fault(cut=True),
        Fault(body=b"{"),
        Fault(status=400),
        Fault(change=null),
    ]
    drawn: list[Fault | None] = []

    def fault(number, body):
        drawn.append(chance.choice(faults) if chance.random() < 0.05 else None)
        return drawn[-1]

    server = serve(fault=fault, service_s=0.01)
    model = LiteLLMModel(
        "openai/x",
        server.openai_url,
        max_concurrent_requests=concurrent,
        retry=RetryPolicy(first_delay_s=0.1),
        strict=False,
    )
    output = model([f"prompt {i}" for i in range(n)], return_full_output=True)
    sent = [last_text(seen.body) for seen in server.seen]
    n_bad = sum(fault is faults[6] for fault in drawn)
    assert sum(error is not None for error in output.errors) == n_bad > 0
    for i, (text, error) in enumerate(
        zip(output.generated_response_strs, output.errors, strict=True)
    ):
        assert (text is None) == (error is not None)
        assert text in (None, "", f"you said prompt {i}")
    assert sum(text == "" for text in output.generated_response_strs) == drawn.count(faults[7]) > 0
    # None is sent again that was answered: as many requests as prompts and failures that pass.
    n_passing = sum(fault in (*faults[:3], *faults[4:6]) for fault in drawn)
    assert len(sent) == n + n_passing
    assert len(set(sent)) == n
    assert server.most_in_flight <= concurrent


def test_a_server_that_is_not_there_is_named_with_what_to_check(quick):
    model = LiteLLMModel("openai/x", "http://127.0.0.1:9/v1", KEY, retry=quick, strict=False)
    (error,) = model(["hello"], return_full_output=True).errors
    assert "http://127.0.0.1:9/v1" in str(error)
    assert "Check that a server answers there" in str(error)
