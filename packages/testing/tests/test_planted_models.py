"""Each law of the suites of models catches a defect that was planted for it."""

import planted_models as planted
import pytest
from law_runner import failure_of, laws_of

from pellucid.testing import ClassifierContract, EncoderContract, LMContract


def _add_the_row_before(rows, _):
    return rows + rows.roll(1, dims=0) * (len(rows) > 1)


def _add_the_batch_mean(rows, _):
    return rows + rows.mean(dim=-1, keepdim=True)


def _depend_on_the_chunk(rows, model):
    return rows + model._forward_pass_batch_size


# (suite, model, law, what the law says)
DEFECTS = [
    (LMContract, planted.DeviceIsText, "test_base_facilities_work", "device"),
    (LMContract, planted.AnswersOneTooFew, "test_call_answers_each_text", "1 answers, not 2"),
    (LMContract, planted.CountsNothing, "test_usage_counts_and_resets", "counted no forward"),
    (LMContract, planted.NeverForgets, "test_usage_counts_and_resets", "after a reset"),
    (
        EncoderContract,
        planted.AnswersDependOnTheBatch,
        "test_an_answer_does_not_depend_on_its_batch",
        "output_embeddings",
    ),
    (
        LMContract,
        planted.DeclaresTooMuchForTexts,
        "test_provides_is_truthful_for_texts",
        "full_logits",
    ),
    (
        LMContract,
        planted.DeclaresTooLittleForTokens,
        "test_provides_is_truthful_for_tokens",
        "input_ids",
    ),
    (
        LMContract,
        planted.DeclaresTooMuchForEmbeddings,
        "test_provides_is_truthful_for_embeddings",
        "input_ids",
    ),
    (
        LMContract,
        planted.HalfPrecisionLosses,
        "test_losses_have_one_value_for_each_candidate",
        "float16",
    ),
    (LMContract, planted.SumsOverTemplates, "test_mean_over_templates", "not the mean"),
    (
        LMContract,
        planted.changes_losses(_add_the_row_before),
        "test_each_template_is_on_its_own",
        "other losses alone",
    ),
    (
        LMContract,
        planted.changes_losses(_add_the_batch_mean),
        "test_batch_composition_changes_nothing",
        "another loss alone",
    ),
    (
        LMContract,
        planted.changes_losses(lambda rows, _: rows.sort(dim=-1).values),
        "test_candidate_order_changes_nothing",
        "do not follow",
    ),
    (
        LMContract,
        planted.changes_losses(_depend_on_the_chunk),
        "test_chunk_size_changes_nothing",
        "Chunks of 1",
    ),
    (LMContract, planted.DropsDuplicates, "test_duplicates_share_a_loss", "three candidates"),
    (
        LMContract,
        planted.IgnoresTheTrigger,
        "test_losses_differ_between_candidates",
        "is the trigger filled in",
    ),
    (
        LMContract,
        planted.FirstTargetForAll,
        "test_targets_differ_between_templates",
        "do not depend on the targets",
    ),
    (LMContract, planted.CountsTemplatesOnce, "test_samples_are_counted", "10 samples"),
    (LMContract, planted.LetsNaNThrough, "test_nan_never_wins", "NaN was returned"),
    (LMContract, planted.NeedsNoInputs, "test_inputs_must_be_set", "DID NOT RAISE"),
    (LMContract, planted.TakesNoCandidates, "test_no_candidates_are_refused", "DID NOT RAISE"),
    (LMContract, planted.ForgivesBadTemplates, "test_bad_templates_are_refused", "DID NOT RAISE"),
    (LMContract, planted.ForgivesFewTargets, "test_fewer_targets_are_refused", "DID NOT RAISE"),
    (LMContract, planted.TriggersAreInt32, "test_encoded_triggers_are_token_ids", "int32"),
    (LMContract, planted.SmallVocabulary, "test_encoded_triggers_are_token_ids", "64 tokens"),
    (LMContract, planted.SmallVocabulary, "test_vocabulary_covers_the_tokenizer", "64 rows"),
    (LMContract, planted.EveryTriggerSurvives, "test_surviving_triggers_survive", "came back as"),
    (LMContract, planted.NoTriggerSurvives, "test_surviving_triggers_survive", "no candidate"),
    (
        LMContract,
        planted.EveryTriggerSurvives,
        "test_special_tokens_do_not_survive",
        "special token",
    ),
    (LMContract, planted.EncodesWithoutInputs, "test_trigger_access_needs_inputs", "DID NOT"),
    (LMContract, planted.RebuildsTexts, "test_token_loss_equals_text_loss", "as tokens and"),
    (LMContract, planted.ChangesCandidates, "test_losses_accept_other_integers", "were changed"),
    (LMContract, planted.CountsRawCallsTwice, "test_raw_token_calls_are_counted", "counted as"),
    (
        LMContract,
        planted.LogitsOfTooManyPlaces,
        "test_logits_have_one_row_for_each_position",
        "return_after_trigger_logits_only",
    ),
    (
        LMContract,
        planted.LogitsOneTooLate,
        "test_logits_do_not_see_what_they_predict",
        "depend on its last",
    ),
    (LMContract, planted.BothPartsOfLogits, "test_both_parts_of_logits_are_refused", "DID NOT"),
    (
        LMContract,
        planted.GradientOfTheMean,
        "test_token_gradient_is_the_slope_of_the_loss",
        "not the slope",
    ),
    (
        LMContract,
        planted.GradientOfTheMean,
        "test_embedding_gradient_is_the_slope_of_the_loss",
        "not the slope",
    ),
    (
        LMContract,
        planted.NormalizesGradients,
        "test_token_gradient_is_the_embedding_gradient_projected",
        "not that at embeddings",
    ),
    (
        LMContract,
        planted.GradientOfTokenizerOnly,
        "test_gradients_have_one_value_for_each_token",
        "127",
    ),
    (
        LMContract,
        planted.GradientOfTheMean,
        "test_gradient_of_a_candidate_is_its_own",
        "another gradient",
    ),
    (
        LMContract,
        planted.GradientAtOtherLosses,
        "test_losses_beside_the_gradient_are_the_losses",
        "are others",
    ),
    (LMContract, planted.NormalizesGradients, "test_gradients_scale_with_the_loss", "twice"),
    (LMContract, planted.TopkOfAscent, "test_topk_is_the_lowest_of_the_gradient", "lowest"),
    (LMContract, planted.TopkIgnoresAverage, "test_topk_of_an_averaged_gradient", "shape"),
    (LMContract, planted.TopkIgnoresAllowed, "test_topk_keeps_to_the_allowed_tokens", "allowed"),
    (LMContract, planted.TopkOfWhatThereIs, "test_topk_refuses_more_than_there_is", "DID NOT"),
    (LMContract, planted.ZerosForNoGradient, "test_losses_without_gradient_are_refused", "DID NOT"),
    (LMContract, planted.GradientWithoutInputs, "test_gradients_need_inputs", ""),
    (LMContract, planted.CountsNoBackward, "test_backward_passes_are_counted", "counted as"),
    (
        LMContract,
        planted.SeedsTheWorld,
        "test_nothing_of_the_callers_is_changed",
        "random's generator, torch's generator",
    ),
    (
        LMContract,
        planted.ThawsWeights,
        "test_nothing_of_the_callers_is_changed",
        "embedding.requires_grad",
    ),
    (
        LMContract,
        planted.WritesIntoTemplates,
        "test_nothing_of_the_callers_is_changed",
        "templates",
    ),
    (LMContract, planted.ChangesCandidates, "test_candidates_are_not_changed", "were changed"),
    (
        LMContract,
        planted.PrefillOneTooLate,
        "test_prefill_logits_predict_the_target",
        "positions before",
    ),
    (LMContract, planted.KnowsNoConversations, "test_conversations_are_templates", "Error"),
    (EncoderContract, planted.WrongWidth, "test_vectors_have_the_declared_width", "(2, 8)"),
    (EncoderContract, planted.OneVectorForAll, "test_vectors_have_the_declared_width", "one vec"),
    (ClassifierContract, planted.OneLogitTooMany, "test_each_class_has_a_logit", "(2, 5)"),
    (ClassifierContract, planted.HalfPrecisionLogits, "test_each_class_has_a_logit", "float16"),
    (ClassifierContract, planted.KnowsOneClass, "test_each_class_has_a_logit", "the same logits"),
    (ClassifierContract, planted.MixesUpClasses, "test_classes_are_told_apart", "classes 1 and 2"),
    (
        ClassifierContract,
        planted.KnowsOneClass,
        "test_losses_differ_between_candidates",
        "is the trigger filled in",
    ),
]


@pytest.mark.parametrize(
    ("contract", "model", "law", "says"),
    DEFECTS,
    ids=[f"{model.__name__}-{law}" for _, model, law, _ in DEFECTS],
)
def test_planted_defect_is_caught(contract, model, law, says):
    said = failure_of(contract, law, make_model=lambda self: model())
    assert said is not None, f"{law} passes on {model.__name__}"
    assert says in said


@pytest.mark.parametrize("contract", [LMContract, EncoderContract, ClassifierContract])
def test_every_law_has_a_defect(contract):
    caught = {law for _, _, law, _ in DEFECTS}
    assert set(laws_of(contract)) <= caught


def test_a_lacking_access_skips_with_its_name():
    with pytest.raises(pytest.fail.Exception, match="lacks LogitsTokenAccessMixin"):
        failure_of(
            EncoderContract,
            "test_both_parts_of_logits_are_refused",
            make_model=lambda self: planted.TinyEncoder(),
        )
