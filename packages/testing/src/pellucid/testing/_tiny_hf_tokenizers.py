"""Tiny Hugging Face tokenizers, trained in a fraction of a second on sentences made up by rule."""

import functools
from typing import Any

from pellucid.core import ArgumentError
from pellucid.testing._tiny_corpus import sentences

BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
TURN_START, TURN_END = "<|turn|>", "<|turn_end|>"

_BPE_SPECIALS = (BOS, EOS, PAD, TURN_START, TURN_END)
_N_BYTES = 256
_WORDPIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|turn_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def tiny_tokenizer(vocab_size: int = 384, *, seed: int = 0) -> Any:
    """Return a byte-level BPE `PreTrainedTokenizerFast` with a chat template, trained in memory.

    It has no unknown token, since every text is a sequence of bytes; encoding adds no special
    tokens. The tokens that open and close a turn of a conversation are special. The training is
    kept for the process, the tokenizer is new at each call.

    Args:
        vocab_size: The number of tokens, special ones included.
        seed: Of the training text.

    Raises:
        ArgumentError: If there is no room for all bytes and special tokens.
    """
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - an extra

    fewest = _N_BYTES + len(_BPE_SPECIALS)
    if vocab_size < fewest:
        raise ArgumentError(f"vocab_size must be {fewest} or more, got {vocab_size!r}.")
    return PreTrainedTokenizerFast(
        tokenizer_object=_rebuild(_train_bpe(vocab_size, seed)),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens=[TURN_START, TURN_END],
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_wordpiece_tokenizer(vocab_size: int = 256, *, seed: int = 0) -> Any:
    """Return a lower-casing WordPiece `PreTrainedTokenizerFast` like BERT's, trained in memory.

    Encoding surrounds texts with [CLS] and [SEP]. Texts of characters that the training text lacks
    become [UNK].

    Args:
        vocab_size: The number of tokens, special ones included, at most; all of them are used.
        seed: Of the training text.
    """
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - an extra

    pad, unk, cls, sep, mask = _WORDPIECE_SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=_rebuild(_train_wordpiece(vocab_size, seed)),
        pad_token=pad,
        unk_token=unk,
        cls_token=cls,
        sep_token=sep,
        mask_token=mask,
        clean_up_tokenization_spaces=False,
    )


def _rebuild(serialized: str) -> Any:
    from tokenizers import Tokenizer  # noqa: PLC0415 - an extra

    return Tokenizer.from_str(serialized)


@functools.cache
def _train_bpe(vocab_size: int, seed: int) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_BPE_SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(seed), trainer)
    return tokenizer.to_str()


@functools.cache
def _train_wordpiece(vocab_size: int, seed: int) -> str:
    from tokenizers import (  # noqa: PLC0415
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    _, unk, cls, sep, _ = _WORDPIECE_SPECIALS
    tokenizer = Tokenizer(models.WordPiece(unk_token=unk))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=list(_WORDPIECE_SPECIALS), show_progress=False
    )
    tokenizer.train_from_iterator(sentences(seed), trainer)
    ids: dict[str, int] = tokenizer.get_vocab()
    tokenizer.post_processor = processors.BertProcessing((sep, ids[sep]), (cls, ids[cls]))
    return tokenizer.to_str()
