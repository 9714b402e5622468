import pytest

from pellucid.api import OpenAITokenizer, _tiktoken
from pellucid.core import ArgumentError


def test_a_rank_file_needs_no_network(rank_file):
    tokenizer = OpenAITokenizer(rank_file=rank_file)
    text = "the red cat says héllo \n\n <|endoftext|> 🙂"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text.encode())
    (end,) = tokenizer.all_special_ids
    assert end == tokenizer.vocab_size - 1
    assert end not in ids
    assert tokenizer.decode([end]) == "<|endoftext|>"


def test_rows_are_filled_up_at_their_end(rank_file):
    tokenizer = OpenAITokenizer(rank_file=rank_file)
    batch = tokenizer(["the red cat", "the"], return_tensors="pt")
    lengths = [len(tokenizer.encode(text)) for text in ("the red cat", "the")]
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    assert set(batch["input_ids"][1, lengths[1] :].tolist()) == {tokenizer.all_special_ids[0]}


def test_names_tell_tokenizers_apart(rank_file, tmp_path):
    same, other = tmp_path / "same", tmp_path / "other"
    same.write_bytes(rank_file.read_bytes())
    other.write_bytes(b"\n".join(rank_file.read_bytes().split(b"\n")[:-3]) + b"\n")
    tokenizer = OpenAITokenizer(rank_file=rank_file)
    assert tokenizer == OpenAITokenizer(rank_file=same)
    assert hash(tokenizer) == hash(OpenAITokenizer(rank_file=same))
    assert tokenizer != OpenAITokenizer(rank_file=other)


def test_an_id_that_is_no_tokens_reads_as_a_broken_character(rank_file, tmp_path):
    gap = tmp_path / "gap"
    lines = rank_file.read_text().splitlines()
    gap.write_text("\n".join([*lines[:-2], lines[-1]]) + "\n")
    tokenizer = OpenAITokenizer(rank_file=gap)
    missing = int(lines[-2].split()[1])
    assert missing in tokenizer.all_special_ids
    assert tokenizer.decode([missing]) == "\ufffd"
    with pytest.raises(KeyError):
        tokenizer.decode([10**6])


def test_nothing_is_loaded_before_it_is_used(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("tiktoken was asked for")

    monkeypatch.setattr(_tiktoken, "import_extra", refuse)
    for name in ("gpt-4o-mini", "a-model-that-nobody-knows"):
        tokenizer = OpenAITokenizer(name)
        with pytest.raises(AssertionError, match="tiktoken was asked for"):
            tokenizer.encode("a")


@pytest.mark.parametrize(
    ("content", "message"),
    [("no ranks at all", "no rank file"), ("AA== 0\n", "255 of the 256 bytes")],
)
def test_files_that_are_none_are_named(tmp_path, content, message):
    path = tmp_path / "bad"
    path.write_text(content)
    with pytest.raises(ArgumentError, match=message):
        OpenAITokenizer(rank_file=path).encode("a")
    with pytest.raises(ArgumentError, match="there is no rank file"):
        OpenAITokenizer(rank_file=tmp_path / "nowhere")
    with pytest.raises(ArgumentError, match="Give one of them"):
        OpenAITokenizer("gpt-4o", path)
