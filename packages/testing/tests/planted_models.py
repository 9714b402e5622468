"""Models with one defect each."""

import random
from types import MappingProxyType

import torch

from pellucid.core import ClassifierBaseModel, Flow, ModelOutput, Substitutions, TextInputManager
from pellucid.testing import TinyEncoder, TinyLM


class _ForgivingTexts(TextInputManager):
    def __init__(self, templates, targets=None):
        self.templates, self.targets, self.n_templates = list(templates), targets, len(templates)


class DeviceIsText(TinyLM):
    device = "cpu"


class AnswersOneTooFew(TinyLM):
    def __call__(self, input_texts, return_full_output=False, **kwargs):
        answers = super().__call__(input_texts, return_full_output, **kwargs)
        return answers if return_full_output else answers[1:]


class CountsNothing(TinyLM):
    def _update_invoke_stats(self, **counts):
        pass


class NeverForgets(TinyLM):
    def reset_usage_stats(self):
        pass


class AnswersDependOnTheBatch(TinyEncoder):
    def invoke_from_texts(self, input_texts):
        vectors = super().invoke_from_texts(input_texts).output_embeddings
        return ModelOutput(output_embeddings=vectors - vectors.mean(dim=0))


class DeclaresTooMuchForTexts(TinyLM):
    provides = MappingProxyType({**TinyLM.provides, Flow.TEXTS: {"full_logits": ()}})


class DeclaresTooLittleForTokens(TinyLM):
    provides = MappingProxyType({**TinyLM.provides, Flow.TOKENS: {"full_logits": ()}})


class DeclaresTooMuchForEmbeddings(TinyLM):
    provides = MappingProxyType(
        {**TinyLM.provides, Flow.EMBEDS: {"input_ids": (), **TinyLM.provides[Flow.EMBEDS]}}
    )


def changes_losses(change):
    """Return a model whose losses in both flows are changed: change(losses, rows, model)."""

    class ChangesLosses(TinyLM):
        def compute_loss_from_tokens(
            self, candidate_trigger_ids, loss_func, keep_message_dim=False
        ):
            rows = super().compute_loss_from_tokens(candidate_trigger_ids, loss_func, True)
            return _finish(change(rows, self), keep_message_dim)

        def compute_loss_from_texts(
            self, candidate_trigger_strs, loss_func, keep_message_dim=False
        ):
            rows = super().compute_loss_from_texts(candidate_trigger_strs, loss_func, True)
            return _finish(change(rows, self), keep_message_dim)

    return ChangesLosses


def _finish(rows, keep_message_dim):
    return rows if keep_message_dim else rows.mean(dim=0)


class SumsOverTemplates(TinyLM):
    def compute_loss_from_tokens(self, candidate_trigger_ids, loss_func, keep_message_dim=False):
        rows = super().compute_loss_from_tokens(candidate_trigger_ids, loss_func, True)
        return rows if keep_message_dim else rows.sum(dim=0)


class HalfPrecisionLosses(TinyLM):
    def compute_loss_from_tokens(self, candidate_trigger_ids, loss_func, keep_message_dim=False):
        return (
            super()
            .compute_loss_from_tokens(candidate_trigger_ids, loss_func, keep_message_dim)
            .half()
        )


class DropsDuplicates(TinyLM):
    def compute_loss_from_texts(self, candidate_trigger_strs, loss_func, keep_message_dim=False):
        return super().compute_loss_from_texts(
            list(dict.fromkeys(candidate_trigger_strs)), loss_func, keep_message_dim
        )


class IgnoresTheTrigger(TinyLM):
    def compute_loss_from_texts(self, candidate_trigger_strs, loss_func, keep_message_dim=False):
        return super().compute_loss_from_texts(
            ["red"] * len(candidate_trigger_strs), loss_func, keep_message_dim
        )


class FirstTargetForAll(TinyLM):
    def set_inputs_from_tokens(self, templates, targets=None):
        if targets is not None:
            targets = targets.replace(target_response_strs=["yes"] * len(templates))
        super().set_inputs_from_tokens(templates, targets)


class CountsTemplatesOnce(TinyLM):
    def compute_loss_from_tokens(self, candidate_trigger_ids, loss_func, keep_message_dim=False):
        losses = super().compute_loss_from_tokens(
            candidate_trigger_ids, loss_func, keep_message_dim
        )
        self._counters().forward_samples = len(candidate_trigger_ids)
        return losses


class LetsNaNThrough(TinyLM):
    def compute_loss_from_texts(self, candidate_trigger_strs, loss_func, keep_message_dim=False):
        losses = super().compute_loss_from_texts(
            candidate_trigger_strs, loss_func, keep_message_dim
        )
        return torch.where(losses.isinf(), torch.nan, losses)


class NeedsNoInputs(TinyLM):
    def reset_inputs_from_texts(self):
        pass


class TakesNoCandidates(TinyLM):
    def compute_loss_from_texts(self, candidate_trigger_strs, loss_func, keep_message_dim=False):
        if not candidate_trigger_strs:
            return torch.zeros(0)
        return super().compute_loss_from_texts(candidate_trigger_strs, loss_func, keep_message_dim)


class ForgivesBadTemplates(TinyLM):
    def set_inputs_from_texts(self, templates, targets=None):
        self._text_input_manager = _ForgivingTexts(templates, targets)


class ForgivesFewTargets(TinyLM):
    def set_inputs_from_texts(self, templates, targets=None):
        super().set_inputs_from_texts(templates)


class TriggersAreInt32(TinyLM):
    def encode_trigger(self, trigger):
        return super().encode_trigger(trigger).int()


class SmallVocabulary(TinyLM):
    @property
    def vocab_size(self):
        return 64


class EveryTriggerSurvives(TinyLM):
    def retokenization_mask(self, candidate_trigger_ids):
        return torch.ones(len(candidate_trigger_ids), dtype=torch.bool)


class NoTriggerSurvives(TinyLM):
    def retokenization_mask(self, candidate_trigger_ids):
        return torch.zeros(len(candidate_trigger_ids), dtype=torch.bool)


class EncodesWithoutInputs(TinyLM):
    def encode_trigger(self, trigger):
        return self._tokenizer.encode_trigger(trigger)


class RebuildsTexts(TinyLM):
    """Decodes triggers and encodes whole texts, as if tokens and text were one."""

    def compute_loss_from_texts(self, candidate_trigger_strs, loss_func, keep_message_dim=False):
        spaced = [text + " " for text in candidate_trigger_strs]
        return super().compute_loss_from_texts(spaced, loss_func, keep_message_dim)


class ChangesCandidates(TinyLM):
    def compute_loss_from_tokens(self, candidate_trigger_ids, loss_func, keep_message_dim=False):
        losses = super().compute_loss_from_tokens(
            candidate_trigger_ids, loss_func, keep_message_dim
        )
        candidate_trigger_ids += 1
        return losses


class CountsRawCallsTwice(TinyLM):
    def invoke_from_tokens(self, input_ids=None, message_targets=None, *args, **kwargs):
        self._update_invoke_stats(n_tokens=1, n_samples=1)
        return super().invoke_from_tokens(input_ids, message_targets, *args, **kwargs)


class LogitsOfTooManyPlaces(TinyLM):
    def compute_logits_from_tokens(self, candidate_trigger_ids, *args, **kwargs):
        if kwargs.pop("return_after_trigger_logits_only", False):
            kwargs["return_trigger_logits_only"] = True
        return super().compute_logits_from_tokens(candidate_trigger_ids, *args, **kwargs)


class LogitsOneTooLate(TinyLM):
    def compute_logits_from_tokens(self, candidate_trigger_ids, *args, **kwargs):
        longer = torch.cat([candidate_trigger_ids, candidate_trigger_ids[:, -1:]], dim=1)
        logits = super().compute_logits_from_tokens(longer, *args, **kwargs)
        return logits[..., 1:, :] if kwargs.get("return_trigger_logits_only") else logits


class BothPartsOfLogits(TinyLM):
    def compute_logits_from_tokens(self, candidate_trigger_ids, *args, **kwargs):
        if len(kwargs) > 1:
            kwargs.popitem()
        return super().compute_logits_from_tokens(candidate_trigger_ids, *args, **kwargs)


class GradientOfTheMean(TinyLM):
    """Differentiates the mean over candidates, so that their number scales the gradient."""

    def _differentiate(self, loss_func, leaf, embed, ids):
        grads, losses = super()._differentiate(loss_func, leaf, embed, ids)
        return grads / len(leaf), losses


class GradientAtOtherLosses(TinyLM):
    def _differentiate(self, loss_func, leaf, embed, ids):
        grads, losses = super()._differentiate(loss_func, leaf, embed, ids)
        return grads, losses + 1


class NormalizesGradients(TinyLM):
    def compute_grad_from_tokens(self, loss_func, candidate_trigger_ids=None, **kwargs):
        kwargs["normalize_grads"] = True
        return super().compute_grad_from_tokens(loss_func, candidate_trigger_ids, **kwargs)


class GradientOfTokenizerOnly(TinyLM):
    def compute_grad_from_tokens(self, loss_func, candidate_trigger_ids=None, **kwargs):
        return super().compute_grad_from_tokens(loss_func, candidate_trigger_ids, **kwargs)[..., 1:]


class TopkOfAscent(TinyLM):
    def compute_topk_from_tokens(
        self, loss_func, candidate_trigger_ids, k, allowed_ids=None, **options
    ):
        grad = -self.compute_grad_from_tokens(loss_func, candidate_trigger_ids)
        scores, ids = grad.topk(k, dim=-1, largest=False)
        return Substitutions(ids, scores)


class TopkIgnoresAverage(TinyLM):
    def compute_topk_from_tokens(
        self, loss_func, candidate_trigger_ids, k, allowed_ids=None, *, average=False, **options
    ):
        return super().compute_topk_from_tokens(
            loss_func, candidate_trigger_ids, k, allowed_ids, **options
        )


class TopkIgnoresAllowed(TinyLM):
    def compute_topk_from_tokens(
        self, loss_func, candidate_trigger_ids, k, allowed_ids=None, **options
    ):
        return super().compute_topk_from_tokens(loss_func, candidate_trigger_ids, k)


class TopkOfWhatThereIs(TinyLM):
    def compute_topk_from_tokens(
        self, loss_func, candidate_trigger_ids, k, allowed_ids=None, **options
    ):
        k = max(1, min(k, self.vocab_size))
        return super().compute_topk_from_tokens(
            loss_func, candidate_trigger_ids, k, allowed_ids, **options
        )


class ZerosForNoGradient(TinyLM):
    def compute_grad_from_tokens(self, loss_func, candidate_trigger_ids=None, **kwargs):
        if not loss_func.is_differentiable:
            return torch.zeros(*candidate_trigger_ids.shape, self.vocab_size)
        return super().compute_grad_from_tokens(loss_func, candidate_trigger_ids, **kwargs)


class GradientWithoutInputs(TinyLM):
    def compute_grad_from_tokens(self, loss_func, candidate_trigger_ids=None, **kwargs):
        if self._token_input_manager is None:
            self.set_inputs_from_tokens(["{{OPTIMIZED_TRIGGER}}"])
        return super().compute_grad_from_tokens(loss_func, candidate_trigger_ids, **kwargs)


class CountsNoBackward(TinyLM):
    def invoke_from_embeds(self, input_embeds, *, count_backward=False, **options):
        return super().invoke_from_embeds(input_embeds, **options)


class SeedsTheWorld(TinyLM):
    def set_inputs_from_tokens(self, templates, targets=None):
        random.seed(0)
        torch.manual_seed(0)
        super().set_inputs_from_tokens(templates, targets)


class ThawsWeights(TinyLM):
    def compute_grad_from_tokens(self, loss_func, candidate_trigger_ids=None, **kwargs):
        self._model.requires_grad_(True)
        return super().compute_grad_from_tokens(loss_func, candidate_trigger_ids, **kwargs)


class WritesIntoTemplates(TinyLM):
    def set_inputs_from_texts(self, templates, targets=None):
        super().set_inputs_from_texts(templates, targets)
        templates[0] = templates[0].strip(".")


class PrefillOneTooLate(TinyLM):
    def _run(self, embeds, prompt_lengths, n_target, **options):
        return super()._run(embeds, prompt_lengths + (n_target > 0), n_target, **options)


class KnowsNoConversations(TinyLM):
    def render(self, template):
        return template


class WrongWidth(TinyEncoder):
    @property
    def d_model(self):
        return 8


class OneVectorForAll(TinyEncoder):
    def invoke_from_texts(self, input_texts):
        output = super().invoke_from_texts(["red" for _ in input_texts])
        return ModelOutput(output_embeddings=output.output_embeddings)


class TinyClassifier(ClassifierBaseModel, TinyEncoder):
    """No defect: the first few entries of an encoder's vectors as logits."""

    n_classes = 4
    provides = MappingProxyType(
        {
            flow: {
                name.replace("output_embeddings", "output_class_logits"): under
                for name, under in fields.items()
            }
            for flow, fields in TinyEncoder.provides.items()
        }
    )

    def classify(self, vectors):
        return ModelOutput(output_class_logits=5 * vectors[:, : self.n_classes])

    def invoke_from_texts(self, input_texts):
        return self.classify(super().invoke_from_texts(input_texts).output_embeddings)

    def invoke_from_embeds(self, input_embeds, **options):
        return self.classify(super().invoke_from_embeds(input_embeds, **options).output_embeddings)


class OneLogitTooMany(TinyClassifier):
    def classify(self, vectors):
        return ModelOutput(output_class_logits=5 * vectors[:, : self.n_classes + 1])


class HalfPrecisionLogits(TinyClassifier):
    def classify(self, vectors):
        return ModelOutput(output_class_logits=vectors[:, : self.n_classes].half())


class KnowsOneClass(TinyClassifier):
    """Answers every text with the logits of the first one."""

    def classify(self, vectors):
        return ModelOutput(
            output_class_logits=vectors[:1, : self.n_classes].expand(len(vectors), -1)
        )


class MixesUpClasses(TinyClassifier):
    def classify(self, vectors):
        logits = 5 * vectors[:, : self.n_classes]
        return ModelOutput(output_class_logits=logits[:, [0, 1, 1, 3]])
