import dataclasses
import json
import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.cli._request import Request, from_config, quote, to_config
from pellucid.core import ArgumentError, CheckpointError

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


def make(**changes):
    given_ = {
        "model": "zoo:tiny-chat",
        "templates": ("a {{OPTIMIZED_TRIGGER}}",),
        "targets": ("b",),
        "optimizer": "gcg",
        "loss": "prefill-ce",
        "steps": 3,
        "seed": 5,
    }
    return Request(**{**given_, **changes})


@given(
    st.tuples(TEXTS, TEXTS),
    TEXTS,
    st.integers(0, 2**63 - 1),
    st.none() | st.integers(1, 10**9),
    st.booleans(),
)
def test_a_configuration_reads_back_as_the_request(texts, trigger, seed, budget, stop):
    request = make(
        templates=texts,
        targets=texts,
        initial_trigger=trigger,
        seed=seed,
        budget_tokens=budget,
        stop_at_goal=stop,
    )
    assert from_config(json.loads(json.dumps(to_config(request)))) == request


@given(st.tuples(TEXTS, TEXTS), TEXTS)
def test_the_command_asks_for_the_same(texts, trigger):
    printable = tuple("".join(filter(str.isprintable, text)) for text in texts)
    request = make(templates=printable, initial_trigger=printable[0], stop_at_goal=False)
    words = shlex.split(request.to_command(out="runs/x y"))
    assert words[:2] == ["pellucid", "optimize"]
    given_ = []
    for word in words[2:]:
        is_value = given_ and given_[-1][1] is None and given_[-1][0] != "--no-stop"
        if is_value:
            given_[-1] = (given_[-1][0], word)
        else:
            name, equals, value = word.partition("=")
            given_.append((name, value if equals else None))
    assert [value for name, value in given_ if name == "--template"] == list(printable)
    assert ("--initial-trigger", printable[0]) in given_
    assert ("--seed", "5") in given_
    assert ("--no-stop", None) in given_
    assert ("--out", "runs/x y") in given_
    assert not [name for name, _ in given_ if name in ("--budget-tokens", "--base-url")]


def test_a_shell_reads_what_was_quoted():
    texts = ["Anna's", 'a "b" $HOME `x` \\ !', "\x1b[31m\n\t'\\", "\u202e\x85é", "-x", ""]
    script = "printf '%s\\0' " + " ".join(quote(text) for text in texts)
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == texts
    assert all(quote(text).isprintable() for text in texts)


def test_a_plain_apostrophe_stays_readable():
    assert quote("Mira's bicycle") == '"Mira\'s bicycle"'


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"budget_tokens": -1}, "--budget-tokens must be at least 1, got -1"),
        ({"candidates": 0}, "--candidates must be at least 1"),
        ({"topk": 0}, "--topk must be at least 1"),
        ({"seed": -1}, "--seed must lie between"),
        ({"templates": ("\udcff",)}, "--template holds bytes that are not UTF-8"),
        ({"model": "\udcff"}, "--model holds bytes"),
    ],
)
def test_a_wrong_value_is_named(changes, expected):
    with pytest.raises(ArgumentError, match=expected):
        make(**changes)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Request)])
def test_a_configuration_without_a_field_is_refused(name):
    config = to_config(make())
    del config[name]
    with pytest.raises(CheckpointError, match=f"'{name}' is missing"):
        from_config(config)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Request)])
def test_a_configuration_with_a_wrong_type_is_refused(name):
    with pytest.raises(CheckpointError, match=f"'{name}' is "):
        from_config({**to_config(make()), name: {"a": 1}})


def test_the_configuration_names_versions():
    versions = to_config(make())["versions"]
    assert {"python", "pellucid-cli", "torch"} <= set(versions)
