"""Tokenizers of three kinds, tiny models, and losses written out plainly."""

import dataclasses
import functools
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER, BaseLoss
from pellucid.testing import tiny_gpt2, tiny_llama, tiny_tokenizer, tiny_wordpiece_tokenizer

P = OPTIMIZED_TRIGGER_PLACEHOLDER

_CORPUS = [
    "Tell me about the red house now, please.",
    "The answer is yes! The question is: why?",
    "Anna lives in the old town. Anna likes tea, Bob likes the sea.",
    "yes no maybe red green blue seven 7 8 9 one two three",
] * 50

_METASPACE_CHAT = (
    "{{ bos_token }}{% for message in messages %}"
    "[{{ message['role'] }}] {{ message['content'] | trim }} [/end]\n"
    "{% endfor %}"
)


def _widen(values):
    return values.to(torch.promote_types(values.dtype, torch.float32))


@dataclasses.dataclass
class PrefillCE(BaseLoss):
    """Mean cross entropy of the prefilled target."""

    require_target_prefill = True

    def __call__(self, prefill_response_logits, target_response_toks):
        n = len(prefill_response_logits)
        logits = _widen(prefill_response_logits).flatten(0, 1)
        nll = cross_entropy(logits, target_response_toks.repeat(n), reduction="none")
        return nll.unflatten(0, (n, -1)).mean(dim=1)


class TriggerCE(BaseLoss):
    """Mean cross entropy of the trigger's own tokens; reads all logits."""

    def __call__(self, full_logits, input_trigger_ids, input_slices):
        place = input_slices["trigger"]
        logits = _widen(full_logits[:, place.start - 1 : place.stop - 1])
        return cross_entropy(logits.mT, input_trigger_ids, reduction="none").mean(dim=1)


class HiddenNorm(BaseLoss):
    """The size of the last token's hidden states."""

    require_hidden_states = True

    def __call__(self, full_hidden_states, input_slices):
        at = full_hidden_states[:, :, input_slices["input_last_token"]]
        return _widen(at).square().mean(dim=(1, 2, 3))


class FirstTokenCE(BaseLoss):
    """Negative log-probability of the likeliest first token."""

    is_differentiable = False
    require_first_token_logprobs = True

    def __call__(self, response_first_token_logprobs):
        return torch.tensor([-max(row.values()) for row in response_first_token_logprobs])


class AnswerLength(BaseLoss):
    """The number of characters of the answer."""

    is_differentiable = False
    require_generation = True

    def __call__(self, generated_response_strs):
        return torch.tensor([float(len(text)) for text in generated_response_strs])


class NaNLoss(BaseLoss):
    """NaN for every trigger whose first token is odd."""

    def __call__(self, input_trigger_ids):
        losses = torch.ones(len(input_trigger_ids))
        losses[input_trigger_ids[:, 0].cpu() % 2 == 1] = torch.nan
        return losses


_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
# Shorter than the prefixes of tests, and over two layers long enough to see the trigger.
_WINDOW = {"sliding_window": 12}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ARCHITECTURES = {
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "gemma2": ("Gemma2", {"head_dim": 8, "query_pre_attn_scalar": 8, **_WINDOW}),
    "gemma3": (
        "Gemma3",
        {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"], **_WINDOW},
    ),
    "mistral": ("Mistral", _WINDOW),
    "gpt_neox": ("GPTNeoX", {}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "phi3": ("Phi3", {}),
    "mixtral": ("Mixtral", _EXPERTS),
    "gpt_oss": ("GptOss", {"head_dim": 8, **_EXPERTS, **_WINDOW}),
    "qwen3_next": (
        "Qwen3Next",
        {
            "head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
    "lfm2": (
        "Lfm2",
        {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    ),
    "mamba": ("Mamba", {"state_size": 4}),
}


def build_causal_lm(name):
    """A causal language model of transformers for `tiny_tokenizer`, every weight random."""
    import transformers

    family, options = _ARCHITECTURES[name]
    config_name = f"{family}TextConfig" if family == "Gemma3" else f"{family}Config"
    tokenizer = tiny_tokenizer()
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in _SPECIAL}
    config_class = getattr(transformers, config_name)
    config = config_class(vocab_size=len(tokenizer), **_SIZES, **special, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config)
        with torch.no_grad():  # norms of 1 and biases of 0 would hide mistakes
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn(weight.shape))
    return model.eval()


_SPECIAL = ("bos", "eos", "pad")
ARCHITECTURES = {
    "llama": tiny_llama,
    "gpt2": tiny_gpt2,
    **{name: functools.partial(build_causal_lm, name) for name in _ARCHITECTURES},
}


def metaspace_tokenizer(scheme="always", chat=False):
    """A sentencepiece-like BPE; `scheme` says where a space is put before the first word."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    specials = ["<unk>", "<s>", "</s>", "[user]", "[/end]"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=["[user]", "[/end]"],
        chat_template=_METASPACE_CHAT if chat else None,
    )


def merging_bpe_tokenizer():
    """A byte-level BPE in which the space before a word is part of its token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|eot|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    letters = "abcdefghijklmnopqrstuvwxyzQZ!?é"
    tokenizer.train_from_iterator([*_CORPUS, *[f"{a} {a} {a}" for a in letters] * 40], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|eot|>")


TOKENIZERS = {
    "bpe": tiny_tokenizer,
    "merging-bpe": merging_bpe_tokenizer,
    "wordpiece": tiny_wordpiece_tokenizer,
    "metaspace-always": metaspace_tokenizer,
    "metaspace-first": lambda: metaspace_tokenizer("first"),
    "metaspace-chat": lambda: metaspace_tokenizer("first", chat=True),
}


@pytest.fixture(params=TOKENIZERS)
def any_tokenizer(request):
    """A tokenizer of each kind in turn."""
    return TOKENIZERS[request.param]()


@pytest.fixture(params=["llama", "gpt2"])
def lm(request):
    """A tiny model of each kind, with its tokenizer."""
    from pellucid.hf import LMHFModel

    build = {"llama": tiny_llama, "gpt2": tiny_gpt2}[request.param]
    return LMHFModel(build(), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="session")
def architectures():
    """By name, what builds a tiny model of each architecture."""
    return ARCHITECTURES


@pytest.fixture
def made():
    """Losses, templates and tokenizers by name."""
    return SimpleNamespace(
        PrefillCE=PrefillCE,
        TriggerCE=TriggerCE,
        HiddenNorm=HiddenNorm,
        FirstTokenCE=FirstTokenCE,
        AnswerLength=AnswerLength,
        NaNLoss=NaNLoss,
        templates=[f"Tell me\n{P} now", f"{P} Is it so?", f"Why?\n{P}"],
        targets=["Yes, it is.", "No", "I do not know"],
        merging_bpe_tokenizer=merging_bpe_tokenizer,
        metaspace_tokenizer=metaspace_tokenizer,
    )


@pytest.fixture
def candidates():
    """Random triggers of six tokens."""
    return torch.randint(0, 384, (9, 6), generator=torch.Generator().manual_seed(3))
