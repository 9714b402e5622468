import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from pellucid.testing import tiny_llama, tiny_tokenizer

# peft asks transformers in a way that it is about to give up
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def base(tmp_path):
    """A directory with a tiny model."""
    tiny_llama().save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_model_is_converted_measured_and_read_again(command, base, tmp_path):
    import pellucid.tptt  # noqa: F401 - registers its models

    text = tmp_path / "text.txt"
    text.write_text("The cat sees the dog. " * 30, encoding="utf-8")
    out = tmp_path / "runs" / "linear"
    done = command(
        "linearize", base, "--out", out, "--text", text, "--lora", "2", "--mode", "delta_product"
    )
    assert done.code == 0, done.err
    result = json.loads((out / "result.json").read_text())
    before, after = result["before"], result["after"]
    assert result["layers"] == tiny_llama().config.num_hidden_layers
    assert before["state_bytes"] == 0 < after["state_bytes"]
    assert after["parameters"] > before["parameters"]
    assert after["trainable"] < before["trainable"]
    assert before["perplexity"] != after["perplexity"]
    for measured in (before, after):
        assert measured["prefill_tokens_per_s"] > 0
        assert measured["decode_tokens_per_s"] > 0
    assert "perplexity" in done.out
    assert str(out) in done.out
    assert "after import pellucid.tptt" in done.out
    assert [path.name for path in out.parent.iterdir()] == ["linear"]
    again = AutoModelForCausalLM.from_pretrained(out)
    assert again.config.operator_mode == "delta_product"


def test_a_share_of_zero_changes_nothing(command, base, tmp_path):
    import pellucid.tptt  # noqa: F401 - registers its models

    out = tmp_path / "linear"
    text = tmp_path / "text.txt"
    text.write_text("A dog sees a cat.", encoding="utf-8")
    done = command("linearize", base, "--out", out, "--mag-weight", "0", "--text", text)
    assert done.code == 0, done.err
    result = json.loads((out / "result.json").read_text())
    assert result["after"]["perplexity"] == result["before"]["perplexity"]
    ids = torch.arange(5, 25)[None]
    own, new = (AutoModelForCausalLM.from_pretrained(path) for path in (base, out))
    assert torch.equal(own(ids).logits, new(ids).logits)


WRONG = {
    "a misspelt mode": (["--mode", "delta_rull"], "Did you mean 'delta_rule'"),
    "a share above 1": (["--mag-weight", "1.5"], "--mag-weight must be from 0 to 1, got 1.5"),
    "targets of no module": (["--target", "attnn"], "has no module of ['attnn']"),
    "targets without queries": (["--target", "mlp"], "no separable queries, keys and values"),
    "no such text": (["--text", "no-such.txt"], "no-such.txt"),
    "no chunk": (["--chunk-size", "0"], "chunk"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line_and_leaves_nothing(case, command, base, tmp_path):
    options, match = WRONG[case]
    done = command("linearize", base, "--out", tmp_path / "runs" / "linear", *options)
    assert done.code == 2
    assert match in done.err
    assert done.err.strip().splitlines()[-1].startswith("pellucid: ")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ("zoo:tiny-chap", "Did you mean 'tiny-chat'"),
        ("zo:tiny-chat", "source of models 'zo'"),
        ("./no/such/folder", "'./no/such/folder' is no causal language model"),
    ],
)
def test_an_unknown_model_is_refused(model, match, command, tmp_path):
    done = command("linearize", model, "--out", tmp_path / "linear")
    assert done.code == 2
    assert match in done.err


def test_nothing_is_written_over(command, base):
    done = command("linearize", base, "--out", base)
    assert done.code == 2
    assert "exists already" in done.err
    assert not (base / "result.json").exists()


def test_a_failed_write_leaves_nothing(command, base, tmp_path, monkeypatch):
    from pellucid.tptt import TpttModel

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TpttModel, "save_pretrained", fail)
    done = command("linearize", base, "--out", tmp_path / "linear")
    assert done.code == 2
    assert "Make room" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_help_teaches(command):
    done = command("linearize", "--help")
    assert done.code == 0
    for word in ("Example", "--mag-weight", "--mode", "--text", "delta_product"):
        assert word in done.out
