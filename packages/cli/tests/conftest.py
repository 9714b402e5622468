"""A command that runs on a model of some ten thousand random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pellucid.testing import TinyLM


@dataclass(frozen=True)
class Done:
    """What a call of the command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command inside this process."""
    from pellucid.cli import run

    def call(*arguments: str | Path) -> Done:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture
def tiny(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command; whatever model is named, it gets a random one that takes milliseconds."""
    from pellucid.cli import _setup

    def load_model(spec: str, base_url: str | None = None) -> TinyLM:
        del spec, base_url
        return TinyLM(seed=1)

    monkeypatch.setattr(_setup, "load_model", load_model)
    return command


@pytest.fixture
def asked() -> tuple[str, ...]:
    """Options of a run of some milliseconds that reaches no goal."""
    return (
        "optimize",
        "--template=I see {{OPTIMIZED_TRIGGER}} now.",
        "--target=a cat",
        "--initial-trigger=the dog",
        "--candidates=12",
        "--topk=20",
        "--seed=3",
    )


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny random Llama, as save_pretrained writes it."""
    from pellucid.testing import tiny_llama, tiny_tokenizer

    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_llama(seed=1).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path
