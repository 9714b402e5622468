import pytest
import torch

from pellucid.core import (
    BaseLoss,
    Flow,
    GradientTokenAccessMixin,
    LMBaseModel,
    LossTextAccessMixin,
    ModelOutput,
    RequirementError,
    as_tokenizer,
)
from pellucid.optimizers import QCGOptimizer
from pellucid.optimizers._roles import check_role, choose_flow, has_same_tokens
from pellucid.testing import TinyLM, TinyTokenizer

OTHER = TinyTokenizer([" the"])


class Remote(LMBaseModel, LossTextAccessMixin):
    def invoke_from_texts(self, input_texts, **kwargs):
        return ModelOutput(generated_response_strs=list(input_texts))


def test_ids_where_the_tokenizer_is_the_same_and_text_otherwise(model):
    assert choose_flow("X", model, TinyTokenizer()) is Flow.TOKENS
    assert choose_flow("X", TinyLM(tokenizer=OTHER), TinyTokenizer()) is Flow.TEXTS
    assert choose_flow("X", Remote(), TinyTokenizer()) is Flow.TEXTS


def test_text_where_the_loss_reads_what_tokens_do_not_have(model, loss):
    class ReadsTexts(BaseLoss):
        is_differentiable = False

        def __call__(self, input_texts):
            return torch.zeros(len(input_texts))

    assert choose_flow("X", model, TinyTokenizer(), loss) is Flow.TOKENS
    assert choose_flow("X", model, TinyTokenizer(), ReadsTexts()) is Flow.TEXTS
    search = QCGOptimizer(
        model,
        ReadsTexts(),
        num_steps=1,
        n_proxy_candidates=4,
        n_target_candidates=2,
        buffer_size=2,
        seed=0,
    )
    result = search.optimize_trigger(["Say{{OPTIMIZED_TRIGGER}}."], " the cat", progress=False)
    assert result.best_loss == 0


def test_model_that_takes_neither_is_refused():
    class Silent(LMBaseModel):
        def invoke_from_texts(self, input_texts, **kwargs):
            raise AssertionError

    with pytest.raises(RequirementError, match=r"X makes triggers .* takes no text\. Use"):
        choose_flow("X", Silent(), TinyTokenizer())


def test_role_is_named_in_the_refusal(loss):
    with pytest.raises(RequirementError, match="the scout requires GradientTokenAccessMixin"):
        check_role("the scout", Remote(), loss, (GradientTokenAccessMixin,))
    check_role("the scout", TinyLM(), loss, (GradientTokenAccessMixin,))
    check_role("the scout", Remote(), None, (LossTextAccessMixin,))


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_model_is_refused(loss):
    with pytest.raises(RequirementError, match="the scout must be a BaseModel, got str"):
        check_role("the scout", "gpt2", loss, ())


class Nameless(TinyTokenizer):
    name_or_path = "unknown"


def test_tokens_are_compared_where_names_say_nothing():
    assert Nameless() != Nameless()
    assert has_same_tokens(Nameless(), Nameless())
    assert has_same_tokens(Nameless(), TinyTokenizer())
    assert not has_same_tokens(Nameless(), Nameless([" the"]))
    # As many tokens, in another order.
    assert not has_same_tokens(Nameless([" a", " b"]), Nameless([" b", " a"]))


class NamelessHF:
    """As much of a Hugging Face tokenizer made in memory as the comparison looks at."""

    name_or_path = ""
    all_special_ids = (0,)

    def __init__(self, words):
        self.words = ["<s>", *words]

    def __len__(self):
        return len(self.words)

    def get_vocab(self):
        return {word: i for i, word in enumerate(self.words)}

    def __call__(self, texts, **kwargs):
        return {"input_ids": [self.encode(text) for text in texts]}

    def encode(self, text, **kwargs):
        return [self.words.index(text)]

    def decode(self, ids, **kwargs):
        return "".join(self.words[i] for i in ids)


def test_wrappers_of_hugging_face_tokenizers_have_the_same_tokens():
    held = NamelessHF(["red", "blue"])
    assert has_same_tokens(as_tokenizer(held), as_tokenizer(held))
    assert has_same_tokens(as_tokenizer(held), as_tokenizer(NamelessHF(["red", "blue"])))
    assert not has_same_tokens(as_tokenizer(held), as_tokenizer(NamelessHF(["blue", "red"])))
    assert not has_same_tokens(as_tokenizer(held), as_tokenizer(NamelessHF(["red"])))
