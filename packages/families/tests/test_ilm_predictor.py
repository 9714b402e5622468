import itertools
import math

import pytest
import torch
from family_tools import BOS, CLS, PAD, TOKENIZER
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.core import ArgumentError, RequirementError, UnknownNameError
from pellucid.families.ilm import (
    ILMPredictor,
    ILMPredictorWithLengthClassification,
    ILMPredictorWithStoppingClassification,
    ILMSeq2SeqPredCollator,
    RotaryTransformerILMModel,
    RotaryTransformerILMModelWithLengthClassification,
    RotaryTransformerILMModelWithStoppingClassification,
)
from pellucid.families.ilm._choice import Insertions, doubts_of
from pellucid.families.ilm._growing import Growing
from pellucid.xlm.datamodule import SimpleSpaceTokenizer
from pellucid.xlm.modules import TokenConstraints

SPECIAL = torch.arange(7)
N_CLASSES = 8

WAYS = {
    "together": {},
    "top k": {"sampling_method": "sample_top_k", "top": 2},
    "top p": {"sampling_method": "sample_top_p", "p": 0.5},
    "the best": {"temperature": 0.0},
    "slot first": {"second_sampling_method": "sample"},
    "best slot": {"second_sampling_method": "sample", "second_temperature": 0.0},
    "best token": {
        "temperature": 0.0,
        "second_sampling_method": "sample_top_k",
        "second_top": 2,
    },
}


class Oracle(torch.nn.Module):
    """Knows what follows each prompt, from the prompt's first token, and how much of it is missing.

    The text so far is matched from the left; what is missing is as likely in each place.
    """

    def __init__(self, answers, n_classes=2):
        super().__init__()
        self.answers, self.n_classes = answers, n_classes
        self.reads = []

    def forward(self, x_t, attention_mask=None, *, where=None):
        self.reads.append(len(x_t))
        logits = torch.full((*x_t.shape, len(TOKENIZER)), -30.0)
        counts = torch.full((len(x_t), self.n_classes), -30.0)
        for row, (ids, shown) in enumerate(zip(x_t.tolist(), attention_mask.tolist(), strict=True)):
            bos, end = ids.index(BOS), sum(shown)
            text, answer = ids[bos + 1 : end], self.answers[ids[1]]
            matched, n_missing = 0, 0
            for token in answer:
                if matched < len(text) and text[matched] == token:
                    matched += 1
                else:
                    logits[row, bos + matched, token] = 0.0
                    n_missing += 1
            assert matched == len(text), (text, answer)
            counts[row, min(n_missing, self.n_classes - 1)] = 0.0
        return logits[where], counts


ANSWERS = {7: [8, 9, 10, 11], 8: [12], 9: [], 10: [13, 13, 14, 13, 14], 11: [7, 8, 7]}
ASKED = [{"prompt_ids": [first, *[12] * first], "input_ids": ids} for first, ids in ANSWERS.items()]
COLLATE = ILMSeq2SeqPredCollator(TOKENIZER, 6, input_block_size=16)


def written(found):
    """Return what was inserted in each row."""
    start = found["output_start_idx"]
    rows = zip(found["ids"][:, start:], found["attention_mask"][:, start:], strict=True)
    return [ids[shown].tolist() for ids, shown in rows]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_oracle_is_followed_to_its_answers(way):
    oracle = Oracle(ANSWERS)
    sampler = ILMPredictorWithStoppingClassification(9, None, TOKENIZER, model=oracle, **way)
    found = sampler.predict(COLLATE(ASKED))
    assert written(found) == list(ANSWERS.values())
    assert found["text"] == [TOKENIZER.decode(ids) for ids in ANSWERS.values()]
    # A token a step, and one step more to see that nothing is missing.
    assert found["steps_taken"] == [len(ids) + 1 for ids in ANSWERS.values()]
    # Rows that are complete are not read again.
    assert oracle.reads == [5, 4, 3, 3, 2, 1]


def test_several_are_inserted_at_once_where_they_are_sure():
    oracle = Oracle({7: [8, 9, 10, 11, 12, 13, 14], 8: [12]}, N_CLASSES)
    sampler = ILMPredictorWithLengthClassification(
        9, None, TOKENIZER, model=oracle, temperature=0.0, max_insertions=3
    )
    batch = COLLATE([{"prompt_ids": [first], "input_ids": []} for first in (7, 8)])
    found = sampler.predict(batch)
    assert written(found) == list(oracle.answers.values())
    # A gap gives one token a step, and of equals the first: there is never a second gap.
    assert found["steps_taken"] == [8, 2]
    inner = Oracle({7: [8, 9, 10, 11, 12, 13, 14]}, N_CLASSES)
    begun = torch.tensor([[CLS, 7, BOS, 9, 11, 13]])
    batch = {
        "input_ids": begun,
        "attention_mask": torch.ones_like(begun, dtype=torch.bool),
        "token_type_ids": torch.tensor([[0, 1, 2, 2, 2, 2]]),
    }
    for most, steps in ((1, 5), (2, 3), (3, 3), (4, 2), (9, 2)):
        sampler = ILMPredictorWithLengthClassification(
            9, None, TOKENIZER, model=inner, temperature=0.0, max_insertions=most
        )
        found = sampler.predict(batch)
        assert written(found) == [inner.answers[7]]
        assert found["steps_taken"] == [steps]


def test_two_places_for_one_token_are_not_two_tokens():
    scores = torch.full((2, 3, 20), -torch.inf)
    # One 9 is missing, on either side of another; and two tokens, each in a place of its own.
    scores[0, 0, 9] = scores[0, 1, 9] = 0.0
    scores[1, 0, 9] = scores[1, 1, 10] = 0.0
    tokens = torch.tensor([[9, 9, 9], [9, 10, 9]])
    doubts = doubts_of(scores, tokens, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(doubts, torch.tensor([[0.5, 0.5, 1.0], [0.0, 0.0, 1.0]]))


@pytest.fixture
def model(make_model):
    return unsure(make_model(RotaryTransformerILMModelWithStoppingClassification))


def unsure(model):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for weight in model.length_head.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model


@given(seed=st.integers(0, 99), way=st.sampled_from(list(WAYS.values())), steps=st.integers(1, 6))
@settings(max_examples=15)
def test_whatever_the_network_says_prompts_stay(seed, way, steps):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = RotaryTransformerILMModelWithLengthClassification
        model = unsure(kind(len(TOKENIZER), 16, 1, 2, num_classes=5, dropout=0.0, max_length=40))
    batch = COLLATE(ASKED)
    before = {name: held.clone() for name, held in batch.items()}
    state = torch.get_rng_state()
    sampler = ILMPredictorWithLengthClassification(
        steps,
        14,
        TOKENIZER,
        model=model,
        stopping_threshold=None,
        max_insertions=2,
        insertion_threshold=2.0,
        **way,
    )
    sampler.generator = torch.Generator().manual_seed(seed)
    found = sampler.predict(batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(batch[name], held) for name, held in before.items())
    assert torch.equal(found["ids"][:, :16], before["input_ids"])
    assert found["output_start_idx"] == 16
    assert torch.equal(found["attention_mask"][:, :16], before["attention_mask"])
    is_new = found["attention_mask"].clone()
    is_new[:, :16] = False
    assert not torch.isin(found["ids"][is_new], SPECIAL).any()
    assert (found["ids"][~found["attention_mask"]] == PAD).all()
    lengths = found["attention_mask"].sum(1)
    assert (lengths <= torch.maximum(before["attention_mask"].sum(1), torch.tensor(14))).all()
    assert max(found["steps_taken"]) <= steps


def test_every_read_is_counted_and_no_other_row_is_read(model, pairs):
    n_read = []
    handle = model.register_forward_pre_hook(lambda _, given: n_read.append(len(given[0])))
    sampler = ILMPredictorWithStoppingClassification(
        12, None, TOKENIZER, model=model, stopping_threshold=None
    )
    found = sampler.predict(COLLATE(pairs * 4))
    handle.remove()
    assert sum(n_read) == sum(found["steps_taken"])
    assert n_read == sorted(n_read, reverse=True)
    assert len(set(found["steps_taken"])) > 1


@torch.no_grad()
def naive(model, prompt, n_steps, threshold, *, is_slot_first):
    """Complete one prompt, rewriting the text for each token."""
    text = []
    for _ in range(n_steps):
        logits, stops = model(torch.tensor([[CLS, *prompt, BOS, *text]]))
        if stops.softmax(1)[0, 0] >= threshold:
            break
        scores = logits[0, len(prompt) + 1 :]
        scores[:, SPECIAL] = -torch.inf
        ranked = scores.logsumexp(1) if is_slot_first else scores.amax(1)
        slot = int(ranked.argmax())
        text.insert(slot, int(scores[slot].argmax()))
    return text


@pytest.mark.parametrize("is_slot_first", [False, True])
def test_the_best_is_what_a_naive_loop_finds(model, pairs, is_slot_first):
    model.double().eval()
    way = {"second_sampling_method": "sample", "second_temperature": 0.0} if is_slot_first else {}
    sampler = ILMPredictorWithStoppingClassification(
        7, None, TOKENIZER, model=model, temperature=0.0, stopping_threshold=0.6, **way
    )
    found = written(sampler.predict(COLLATE(pairs)))
    expected = [
        naive(model, pair["prompt_ids"], 7, 0.6, is_slot_first=is_slot_first) for pair in pairs
    ]
    assert found == expected
    assert max(map(len, found)) > 2


# What is drawn, against the probabilities of all texts.

FEW = SimpleSpaceTokenizer.for_numbers(2)


@torch.no_grad()
def probabilities(model, most):
    """Return the probability of every text that an empty prompt can become, up to a length."""
    states, texts = {(): 1.0}, {}
    for length in range(most + 1):
        following = {}
        for text, prob in states.items():
            logits, stops = model(torch.tensor([[CLS, BOS, *text]]))
            stop = 1.0 if length == most else float(stops.softmax(1)[0, 0])
            texts[text] = texts.get(text, 0.0) + prob * stop
            probs = logits[0, 1:, 7:].flatten().softmax(0).view(length + 1, 2)
            for slot, token in itertools.product(range(length + 1), (0, 1)):
                longer = (*text[:slot], token + 7, *text[slot:])
                share = prob * (1 - stop) * float(probs[slot, token])
                following[longer] = following.get(longer, 0.0) + share
        states = following
    return texts


@pytest.mark.parametrize("way", [{}, {"second_sampling_method": "sample"}], ids=["one", "two"])
def test_texts_are_drawn_as_often_as_they_are_likely(way):
    """Joint and two-stage draws are the same at temperature 1: the likelihood that is bounded."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        kind = RotaryTransformerILMModelWithStoppingClassification
        model = unsure(kind(len(FEW), 16, 1, 2, dropout=0.0, max_length=16, mix_neighbours=True))
    model.double().eval()
    n_rows = 6000
    batch = ILMSeq2SeqPredCollator(FEW, 2, input_block_size=2)(
        [{"prompt_ids": [], "input_ids": []}] * n_rows
    )
    sampler = ILMPredictorWithStoppingClassification(
        9, 4, FEW, model=model, stopping_threshold=None, **way
    )
    drawn = [tuple(row) for row in written(sampler.predict(batch))]
    expected = probabilities(model, 2)
    assert sum(expected.values()) == pytest.approx(1)
    assert len(expected) == 7
    for text, prob in expected.items():
        deviation = math.sqrt(prob * (1 - prob) / n_rows)
        assert abs(drawn.count(text) / n_rows - prob) < 5 * deviation, text


def test_the_length_is_limited_and_an_oracle_can_limit_it_more(model, pairs):
    going_on = {"model": model, "stopping_threshold": 1.0}
    batch = COLLATE(pairs)
    given_lengths = batch["attention_mask"].sum(1)
    sampler = ILMPredictorWithStoppingClassification(50, 9, TOKENIZER, **going_on)
    found = sampler.predict(batch)
    assert found["attention_mask"].sum(1).tolist() == [9, 9, 9]
    # A row that is as long as it may get is not read again.
    assert found["steps_taken"] == (9 - given_lengths).tolist()
    batch["oracle_length"] = given_lengths + torch.tensor([1, 0, 2])
    found = sampler.predict(batch)
    assert found["steps_taken"] == [1, 0, 2]


def test_the_first_token_can_be_forced():
    oracle = Oracle({9: []})
    oracle.forward = lambda ids, shown, *, where: (
        torch.zeros(int(where.sum()), len(TOKENIZER)),
        torch.tensor([[9.0, 0.0]]),
    )
    batch = COLLATE([{"prompt_ids": [9], "input_ids": []}])
    for is_forced, length in ((False, 0), (True, 1)):
        sampler = ILMPredictorWithStoppingClassification(
            5, None, TOKENIZER, model=oracle, force_predict_first_step=is_forced
        )
        assert len(written(sampler.predict(batch))[0]) == length


def test_without_a_head_as_much_is_inserted_as_may_be(make_model, pairs):
    model = make_model(RotaryTransformerILMModel)
    found = ILMPredictor(4, None, TOKENIZER, model=model).predict(COLLATE(pairs))
    assert found["steps_taken"] == [4, 4, 4]
    assert [len(row) for row in written(found)] == [4, 4, 4]
    with pytest.raises(RequirementError, match="does not say when a text is complete"):
        ILMPredictorWithStoppingClassification(4, None, TOKENIZER, model=model).predict(
            COLLATE(pairs)
        )


def test_nothing_is_inserted_where_that_is_forbidden(model):
    ids = torch.tensor([[CLS, 7, BOS, 8, 9]])
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids, dtype=torch.bool),
        "token_type_ids": torch.tensor([[0, 1, 2, 2, 2]]),
        "constraint": torch.tensor([[False, False, True, False, True]]),
    }
    sampler = ILMPredictorWithStoppingClassification(
        4, None, TOKENIZER, model=model, stopping_threshold=1.0, tokens_to_suppress=[10]
    )
    for seed in range(5):
        sampler.generator = torch.Generator().manual_seed(seed)
        (text,) = written(sampler.predict(batch))
        assert (text[0], text[-1], len(text)) == (8, 9, 6)
        assert 10 not in text
    batch["constraint"] = torch.ones(1, 5, dtype=torch.bool)
    assert written(sampler.predict(batch)) == [[8, 9]]


def test_history_is_the_text_after_each_insertion():
    for is_asked in (True, False):
        sampler = ILMPredictorWithStoppingClassification(
            9,
            None,
            TOKENIZER,
            model=Oracle(ANSWERS),
            return_history=is_asked,
        )
        found = sampler.predict(COLLATE(ASKED))
        if not is_asked:
            assert found["history"] == [[]] * 5
            continue
        for (first, answer), history in zip(ANSWERS.items(), found["history"], strict=True):
            assert [step for _, step in history] == list(range(len(answer)))
            texts = [text.split() for text, _ in history]
            prompt = TOKENIZER.decode([first, *[12] * first]).split()
            assert all(text[: len(prompt)] == prompt for text in texts)
            assert [len(text) - len(prompt) for text in texts] == list(range(1, len(answer) + 1))
            for text in texts:
                rest = iter(TOKENIZER.decode(answer).split())
                assert all(token in rest for token in text[len(prompt) :])


@given(data=st.data())
def test_a_buffer_says_what_a_list_says(data):
    """Insert into tokens that never move, and into lists."""
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    texts = [[7 + at for at in range(length)] for length in lengths]
    ids = torch.zeros(len(texts), 5, dtype=torch.int64)
    shown = torch.zeros(len(texts), 5, dtype=torch.bool)
    for row, text in enumerate(texts):
        begin = data.draw(st.integers(0, 5 - len(text)))
        ids[row, begin : begin + len(text)] = torch.tensor(text)
        shown[row, begin : begin + len(text)] = True
    growing = Growing.of(
        ids,
        shown,
        shown,
        torch.full((len(texts),), 9),
        constraints=TokenConstraints((PAD,)),
        pad=PAD,
    )
    for step in range(data.draw(st.integers(1, 5))):
        at = [data.draw(st.integers(0, len(text) - 1)) for text in texts]
        rows = torch.arange(len(texts))
        made = Insertions(
            torch.tensor(at)[:, None],
            torch.full((len(texts), 1), 20 + step),
            torch.ones(len(texts), 1, dtype=torch.bool),
        )
        growing.insert_all(rows, made, step=step)
        for text, place in zip(texts, at, strict=True):
            text.insert(place + 1, 20 + step)
        found, is_token, slots = growing.read(rows)
        assert torch.equal(is_token, slots)
        assert [ids[kept].tolist() for ids, kept in zip(found, is_token, strict=True)] == texts
        width = growing.positions.shape[1]
        assert growing.positions.sort(dim=1).values.tolist() == [list(range(width))] * len(texts)


def test_text_is_completed(model):
    sampler = ILMPredictorWithStoppingClassification(
        6, None, TOKENIZER, model=model, stopping_threshold=None
    )
    generator = torch.Generator().manual_seed(0)
    first = sampler.generate(["1 2", ""], generator=generator)
    assert first == sampler.generate(["1 2", ""], generator=generator.manual_seed(0))
    assert sampler.generate([]) == []


def test_bad_input_is_named(model):
    with pytest.raises(UnknownNameError, match="sample_top_k"):
        ILMPredictor(5, sampling_method="top_k")
    with pytest.raises(ArgumentError, match="max_steps is 0"):
        ILMPredictor(0)
    with pytest.raises(ArgumentError, match="max_length is 0"):
        ILMPredictor(5, 0)
    with pytest.raises(ArgumentError, match="temperature is -1"):
        ILMPredictor(5, temperature=-1)
    with pytest.raises(ArgumentError, match="max_insertions is 0"):
        ILMPredictorWithLengthClassification(5, max_insertions=0)
    with pytest.raises(ArgumentError, match="insertion_threshold is 0"):
        ILMPredictorWithLengthClassification(5, insertion_threshold=0)
    with pytest.raises(ArgumentError, match="stopping_threshold is 0"):
        ILMPredictorWithStoppingClassification(5, stopping_threshold=0)
    with pytest.raises(ArgumentError, match="stopping_temperature is 0"):
        ILMPredictorWithStoppingClassification(5, stopping_temperature=0)
    sampler = ILMPredictorWithLengthClassification(
        5, None, TOKENIZER, model=model, max_insertions=2
    )
    with pytest.raises(RequirementError, match="does not say how many tokens are missing"):
        sampler.predict(COLLATE(ASKED))
    ids = torch.tensor([[CLS, 7]])
    batch = {"input_ids": ids, "attention_mask": ids > 0, "token_type_ids": torch.tensor([[0, 1]])}
    with pytest.raises(ArgumentError, match="nothing to insert after; give BOS"):
        sampler.predict(batch)
