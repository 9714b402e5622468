"""The conformance suites, on every model, against servers on loopback."""

import functools

import pytest
from loopback import LoopbackServer

from pellucid.api import (
    EncoderGeminiModel,
    EncoderOpenAIModel,
    EncoderVoyageModel,
    LiteLLMModel,
    OpenAITokenizer,
)
from pellucid.testing import EncoderContract, LMContract, TinyLM, TinyTokenizer, TokenizerContract

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")

KEY = "sk-loopback-0123456789"


@functools.cache
def tiny():
    return TinyLM(seed=1)


def chat(body):
    """A tiny model's answer to the conversation, written out."""
    text = "\n".join(f"{m['role']}: {m['content']}" for m in body["messages"])
    output = tiny().invoke_from_texts(
        [text], require_generation=True, require_first_token_logprobs=True
    )
    return output.generated_response_strs[0], list(output.response_first_token_logprobs[0].items())


@pytest.fixture(scope="module")
def server():
    with LoopbackServer(chat=chat) as held:
        yield held


class _Served:
    @pytest.fixture(autouse=True)
    def _find_server(self, server):
        self.server = server


class TestHTTP(_Served, LMContract):
    def make_model(self):
        return LiteLLMModel("openai/tiny", self.server.openai_url)


class TestNotStrict(_Served, LMContract):
    def make_model(self):
        return LiteLLMModel("openai/tiny", self.server.openai_url, strict=False)


class TestLiteLLM(_Served, LMContract):
    def make_model(self):
        return LiteLLMModel("openai/tiny", self.server.openai_url, KEY, route="litellm")


class TestOpenAI(_Served, EncoderContract):
    def make_model(self):
        return EncoderOpenAIModel(
            "tiny", base_url=self.server.openai_url, tokenizer=TinyTokenizer()
        )


class TestGemini(_Served, EncoderContract):
    def make_model(self):
        return EncoderGeminiModel("tiny", d_model=8, api_key=KEY, base_url=self.server.url)


class TestVoyage(_Served, EncoderContract):
    def make_model(self):
        return EncoderVoyageModel(
            "tiny", d_model=8, api_key=KEY, base_url=self.server.openai_url, strict=False
        )


class TestTokenizerOfAFile(TokenizerContract):
    @pytest.fixture(autouse=True)
    def _file(self, rank_file):
        self.rank_file = rank_file

    def make_tokenizer(self):
        return OpenAITokenizer(rank_file=self.rank_file)
