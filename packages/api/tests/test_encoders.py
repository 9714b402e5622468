import pytest
import torch

from pellucid.api import EncoderGeminiModel, EncoderOpenAIModel, EncoderVoyageModel
from pellucid.core import ArgumentError
from pellucid.testing import TinyTokenizer

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")

KEY = "sk-loopback-0123456789"


def sizes(server):
    return sorted(len(seen.body.get("input") or seen.body["requests"]) for seen in server.seen)


def test_requests_hold_no_more_texts_than_a_provider_takes(serve):
    texts = [f"text {i}" for i in range(2050)]
    server = serve()
    vectors = EncoderOpenAIModel("x", base_url=server.openai_url)(texts)
    assert sizes(server) == [2, 2048]
    assert vectors[:5].equal(EncoderOpenAIModel("x", base_url=server.openai_url)(texts[:5]))
    server = serve()
    EncoderGeminiModel("x", d_model=4, api_key=KEY, base_url=server.url)(texts[:205])
    assert sizes(server) == [5, 100, 100]
    server = serve()
    EncoderVoyageModel("x", d_model=4, api_key=KEY, base_url=server.openai_url)(texts[:200])
    assert sizes(server) == [72, 128]


def test_requests_hold_no_more_tokens_than_a_provider_takes(serve):
    server = serve()
    long = "x" * 4 * 40_000
    EncoderVoyageModel("x", d_model=4, api_key=KEY, base_url=server.openai_url)([long] * 5)
    assert sizes(server) == [1, 2, 2]


def test_the_width_is_asked_for_where_it_is_not_the_models_own(serve):
    server = serve()
    model = EncoderOpenAIModel("x", d_model=4, base_url=server.openai_url)
    assert (model.d_model, model(["a"]).shape) == (4, (1, 4))
    assert server.seen[0].body["dimensions"] == 4
    assert EncoderOpenAIModel().d_model == 1536
    assert EncoderOpenAIModel("text-embedding-3-large", 256).d_model == 256


def test_an_unknown_width_is_found_with_one_request(serve):
    server = serve()
    model = EncoderOpenAIModel("x", base_url=server.openai_url)
    assert [model.d_model, model.d_model] == [8, 8]
    assert len(server.seen) == 1


def test_gemini_is_told_what_texts_are(serve):
    server = serve()
    model = EncoderGeminiModel("x", d_model=4, api_key=KEY, base_url=server.url)
    model.invoke_from_texts(["a"], text_type="query")
    assert server.seen[0].body["requests"][0]["taskType"] == "RETRIEVAL_QUERY"
    assert model.get_request_stats().estimated_tokens == 1


def test_triggers_of_tokens_are_filled_in_as_text(serve):
    model = EncoderOpenAIModel("x", base_url=serve().openai_url, tokenizer=TinyTokenizer())
    model.set_inputs_from_tokens(["The {{OPTIMIZED_TRIGGER}} cat"])
    ids = model.encode_trigger("red")
    assert model.decode_triggers(ids[None]) == ["red"]
    talk = [{"role": "user", "content": "{{OPTIMIZED_TRIGGER}}"}]
    with pytest.raises(ArgumentError, match="conversation"):
        model.set_inputs_from_tokens([talk])


def test_vectors_are_float32_and_come_in_order(serve):
    model = EncoderOpenAIModel("x", base_url=serve().openai_url)
    together = model(["a", "b", "c"])
    assert together.dtype == torch.float32
    for row, text in zip(together, ["a", "b", "c"], strict=True):
        assert row.equal(model([text])[0])
