"""Keys are never logged, cached or shown, whatever goes wrong."""

import logging
import pickle
import traceback

import pytest
from loopback import Fault

from pellucid.api import (
    BatchError,
    EncoderGeminiModel,
    EncoderOpenAIModel,
    EncoderVoyageModel,
    LiteLLMModel,
)
from pellucid.api._secrets import Scrubber, Secret, public_url
from pellucid.core import ArgumentError

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")

KEY = "sk-loopback-0123456789abcdef"


def make(kind, server, **options):
    if kind in ("http", "litellm"):
        return LiteLLMModel("openai/x", server.openai_url, KEY, route=kind, **options)
    kinds = {
        "openai": EncoderOpenAIModel,
        "gemini": EncoderGeminiModel,
        "voyage": EncoderVoyageModel,
    }
    url = server.url if kind == "gemini" else server.openai_url
    return kinds[kind]("x", d_model=8, api_key=KEY, base_url=url, **options)


@pytest.mark.parametrize("kind", ["http", "litellm", "openai", "gemini", "voyage"])
def test_a_key_reaches_the_server_and_nothing_else(serve, tmp_path, quick, kind, caplog, capfd):
    echo = Fault(status=400, body=b'{"error": {"message": "wrong key %s"}}' % KEY.encode())
    server = serve(
        chat=lambda body: "an answer",
        fault=lambda number, body: echo if "bad" in str(body) else None,
    )
    with caplog.at_level(logging.DEBUG):
        model = make(kind, server, cache_dir=tmp_path, retry=quick, timeout_s=60)
        model(["good"])
        with pytest.raises(BatchError) as caught:
            model(["bad", "good"])
        model.close()
    assert KEY in str([seen.headers for seen in server.seen])
    errors = [caught.value, *filter(None, caught.value.errors)]
    shown = [repr(model), str(vars(model)), caplog.text, *capfd.readouterr()]
    for error in errors:
        shown += [str(error), repr(error), str(vars(error)), *traceback.format_exception(error)]
        assert error.__context__ is None or KEY not in str(error.__context__)
    assert not [text for text in shown if KEY in text]
    held = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert held
    assert KEY.encode() not in held
    assert b"good" not in held, "a prompt was kept"


def test_a_key_in_an_address_is_not_shown(quick):
    url = "http://user:pass-word-1@127.0.0.1:9/v1?token=tok-0123456789"
    model = LiteLLMModel("openai/x", url, retry=quick)
    with pytest.raises(BatchError) as caught:
        model(["hello"])
    for text in (repr(model), str(caught.value), str(vars(model))):
        assert "pass-word-1" not in text.replace(url, "")
    assert "pass-word-1" not in repr(model) + str(caught.value)
    assert public_url(url) == "http://127.0.0.1:9/v1"


def test_a_key_of_the_environment_is_not_sent_to_a_server_of_ones_own(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve()
    LiteLLMModel("openai/x", server.openai_url)(["hello"])
    EncoderOpenAIModel("x", base_url=server.openai_url)(["hello"])
    assert KEY not in str([seen.headers for seen in server.seen])


def test_keys_of_the_environment_are_taken_out_of_messages(monkeypatch):
    monkeypatch.setenv("ANY_API_KEY", "env-0123456789")
    monkeypatch.setenv("HOME_SWEET", "home-0123456789")
    cleaned = Scrubber(Secret(KEY)).clean(f"{KEY} env-0123456789 home-0123456789 Bearer abcdefgh")
    assert cleaned == "*** *** home-0123456789 Bearer ***"


def test_a_secret_does_not_show_and_is_not_pickled():
    secret = Secret(KEY)
    assert secret.reveal() == KEY
    assert KEY not in f"{secret} {secret!r} {[secret]}"
    with pytest.raises(ArgumentError, match="not pickled"):
        pickle.dumps(secret)


def test_keys_do_not_belong_into_request_params():
    with pytest.raises(ArgumentError, match="api_key"):
        LiteLLMModel("openai/x", request_params={"api_key": KEY})
