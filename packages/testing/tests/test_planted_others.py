"""Each law of the suites of tokenizers and trackers catches a defect that was planted for it."""

import pytest
from hypothesis import strategies as st
from law_runner import failure_of, laws_of
from reference_optimizer import ListTracker

from pellucid.testing import TinyTokenizer, TokenizerContract, TrackerContract

# Every character that the tokenizer has; and few of them, so that no defect at the edges is missed.
TEXTS = st.text("\n" + "".join(map(chr, range(32, 127))), max_size=20) | st.text(" ab", max_size=6)


class VocabularyTooSmall(TinyTokenizer):
    @property
    def vocab_size(self):
        return 3


class Strips(TinyTokenizer):
    def encode(self, text):
        return super().encode(text.strip())


class BatchesDiffer(TinyTokenizer):
    def batch_encode(self, texts):
        return [[0, *row] for row in super().batch_encode(texts)]


class TriggersHaveSpecials(TinyTokenizer):
    def encode_trigger(self, trigger):
        ids = super().encode_trigger(trigger)
        return ids.new_tensor([1, *ids.tolist()])


class OnlyLists(TinyTokenizer):
    def decode_triggers(self, trigger_ids):
        return super().decode_triggers(trigger_ids[:1])


class SpecialOutside(TinyTokenizer):
    @property
    def all_special_ids(self):
        return [0, 1, 9999]


class SpecialsShow(TinyTokenizer):
    def decode_triggers(self, trigger_ids):
        return self.batch_decode([list(map(int, row)) for row in trigger_ids])


class SpecialsHide(TinyTokenizer):
    def decode(self, ids):
        return super().decode([i for i in ids if i > 2])


class TakesSingleTexts(TinyTokenizer):
    def __call__(self, texts, return_tensors="list", **kwargs):
        texts = [texts] if isinstance(texts, str) else texts
        return super().__call__(texts, return_tensors, **kwargs)


class Unhashable(TinyTokenizer):
    __hash__ = None


class EqualsTexts(TinyTokenizer):
    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0


class Nameless(TinyTokenizer):
    @property
    def name_or_path(self):
        return ""


TOKENIZERS = [
    (VocabularyTooSmall, "test_ids_lie_within_the_vocabulary", "encodes to"),
    (Strips, "test_texts_come_back", "came back as"),
    (BatchesDiffer, "test_batches_are_single_texts", "together"),
    (TriggersHaveSpecials, "test_triggers_are_encoded_texts", "as a trigger is [1"),
    (OnlyLists, "test_triggers_decode_alike_in_every_form", "in a tensor of two"),
    (SpecialOutside, "test_special_ids_lie_within_the_vocabulary", "9999"),
    (SpecialsShow, "test_special_tokens_are_no_part_of_a_trigger", "<pad>"),
    (SpecialsHide, "test_special_tokens_show_when_decoded", "decodes to nothing"),
    (TakesSingleTexts, "test_calls_encode_lists", "DID NOT RAISE"),
    (Unhashable, "test_tokenizers_can_be_keys", "unhashable"),
    (EqualsTexts, "test_tokenizers_can_be_keys", "equals a text"),
    (Nameless, "test_a_name_is_there", "name is empty"),
]


class ChangesWhatItIsGiven(ListTracker):
    def _log(self, data):
        data["seen"] = True


class NeedsConfig(ListTracker):
    def _init(self, config):
        self.name = config["optimizer"]


class LogsAnyTime(ListTracker):
    def log(self, data):
        self.records.append(data)


class FinishesTwice(ListTracker):
    def finish(self, summary=None):
        self._finish(summary or {})


class IgnoresTheFirstRun(ListTracker):
    def init(self, config=None):
        self._is_active = False
        super().init(config)


class ServesOnce(ListTracker):
    def _finish(self, summary):
        self.records = None


TRACKERS = [
    (ChangesWhatItIsGiven, "test_a_run_is_recorded", "was changed"),
    (NeedsConfig, "test_nothing_need_be_given", "optimizer"),
    (LogsAnyTime, "test_logging_needs_a_run", "DID NOT RAISE"),
    (FinishesTwice, "test_finishing_twice_is_harmless", "2 times"),
    (FinishesTwice, "test_finishing_nothing_is_harmless", "never begun"),
    (IgnoresTheFirstRun, "test_a_second_run_finishes_the_first", "not finished"),
    (ServesOnce, "test_a_tracker_serves_several_runs", "NoneType"),
]


@pytest.mark.parametrize(
    ("tokenizer", "law", "says"),
    TOKENIZERS,
    ids=[f"{t.__name__}-{law}" for t, law, _ in TOKENIZERS],
)
def test_planted_defect_in_a_tokenizer_is_caught(tokenizer, law, says):
    said = failure_of(TokenizerContract, law, make_tokenizer=lambda self: tokenizer(), texts=TEXTS)
    assert said is not None, f"{law} passes on {tokenizer.__name__}"
    assert says in said


@pytest.mark.parametrize(
    ("tracker", "law", "says"), TRACKERS, ids=[f"{t.__name__}-{law}" for t, law, _ in TRACKERS]
)
def test_planted_defect_in_a_tracker_is_caught(tracker, law, says):
    said = failure_of(TrackerContract, law, make_tracker=lambda self: tracker())
    assert said is not None, f"{law} passes on {tracker.__name__}"
    assert says in said


@pytest.mark.parametrize(
    ("contract", "table"), [(TokenizerContract, TOKENIZERS), (TrackerContract, TRACKERS)]
)
def test_every_law_has_a_defect(contract, table):
    assert set(laws_of(contract)) == {law for _, law, _ in table}
