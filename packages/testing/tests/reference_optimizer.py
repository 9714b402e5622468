"""An optimizer and a tracker of a few lines, for the suites to be tried on."""

import dataclasses

import torch

from pellucid.core import (
    BaseOptimizer,
    BaseTracker,
    GradientTokenAccessMixin,
    LossTokenAccessMixin,
    OptimizerResult,
    as_tokenizer,
)


@dataclasses.dataclass(frozen=True)
class NoSpecials:
    """Bans special tokens."""

    def get_whitelist_ids(self, tokenizer, vocab_size):
        banned = set(as_tokenizer(tokenizer).all_special_ids)
        return torch.tensor([i for i in range(vocab_size) if i not in banned])


class ReferenceOptimizer(BaseOptimizer):
    """Replaces a random token by one of those that promise most, and keeps what is better."""

    model_requirements = (LossTokenAccessMixin, GradientTokenAccessMixin)

    def __init__(self, model, loss, tracker=None, seed=None, *, num_steps=6, n_candidates=8):
        super().__init__(model, loss, tracker, seed)
        self.num_steps = num_steps
        self.n_candidates = n_candidates
        self.token_constraints = NoSpecials()

    def optimize_trigger(self, templates, initial_trigger=None, targets=None):
        self.start(templates, initial_trigger, targets)
        losses, triggers, reason = [], [], "steps"
        for _ in range(self.num_steps):
            if self.is_budget_spent():
                reason = "budget"
                break
            self.step()
            losses.append(self.best_loss)
            triggers.append(self.model.decode_triggers(self.best[None])[0])
            self.log(self.best_loss, triggers[-1])
        return self.conclude(losses, triggers, reason)

    def start(self, templates, initial_trigger, targets):
        self.model.set_inputs_from_tokens(templates, targets)
        self.random = torch.Generator().manual_seed(self.seed or 0)
        self.allowed = self.token_constraints.get_whitelist_ids(
            self.model.tokenizer, self.model.vocab_size
        )
        self.best = self.model.encode_trigger(initial_trigger or "! ! !")
        self.best_loss = self.initial_loss = float(self.evaluate(self.best[None])[0])

    def step(self):
        candidates = self.propose()
        losses = self.evaluate(candidates)
        if losses.min() < self.best_loss:
            self.best, self.best_loss = candidates[losses.argmin()], float(losses.min())

    def propose(self):
        found = self.model.compute_topk_from_tokens(self.loss, self.best[None], 16, self.allowed)
        candidates = self.best.repeat(self.n_candidates, 1)
        rows = torch.arange(self.n_candidates)
        places = self.draw(len(self.best))
        candidates[rows, places] = found.token_ids[0][places, self.draw(16)]
        return candidates

    def draw(self, stop):
        return torch.randint(stop, (self.n_candidates,), generator=self.random)

    def evaluate(self, candidates):
        return self.model.compute_loss_from_tokens(candidates, self.loss)

    def conclude(self, losses, triggers, reason):
        return OptimizerResult(
            best_loss=self.best_loss,
            best_trigger_ids=self.best,
            best_trigger_str=self.model.decode_triggers(self.best[None])[0],
            losses=losses,
            trigger_strs=triggers,
            initial_loss=self.initial_loss,
            stop_reason=reason,
            seed=self.seed,
            usage=self.model.get_usage_stats(),
        )


class ListTracker(BaseTracker):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__("list")
        self.records = []

    def _init(self, config):
        self.records.append(dict(config))

    def _log(self, data):
        self.records.append(dict(data))

    def _finish(self, summary):
        self.records.append(dict(summary))
