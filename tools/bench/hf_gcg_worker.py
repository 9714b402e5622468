"""One contestant of `hf_gcg.py`, in an environment of its own; it needs only what it times.

    python tools/bench/hf_gcg_worker.py PACKAGE DIRECTORY

PACKAGE is hand-written, pellucid, tropt or nanogcg; DIRECTORY holds the model, the tokenizer and
the problem, as `hf_gcg.py` saves them. It reads one JSON object a line, `{"piece": ..., "n": ...}`,
and answers each with the milliseconds that the piece took, by the clock and of processor time.
"""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CHUNK = 64
PRODUCT_ROWS = 1024
TOP_K = 256

Pieces = dict[str, Callable[[int], Any]]


class Problem:
    """What all contestants work on: a model, a tokenizer, a template and candidates."""

    def __init__(self, folder: Path) -> None:
        from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: PLC0415 - after the warnings are off

        held = json.loads((folder / "problem.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.before, self.after = held["before"], held["after"]
        self.target, self.trigger = held["target"], held["trigger"]
        self.model: Any = LlamaForCausalLM.from_pretrained(folder).float().eval()
        self.model.requires_grad_(False)
        self.tokenizer: Any = PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"), unk_token="w0", pad_token="w0"
        )
        self.base = torch.tensor(self.encode(self.trigger))
        self.n_vocab = self.model.config.vocab_size

    def encode(self, text: str) -> list[int]:
        """Return a text's token ids."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def candidates(self, n: int) -> torch.Tensor:
        """Return the trigger with one token changed in each row, the same in every process."""
        draw = torch.Generator().manual_seed(n)
        ids = self.base.repeat(n, 1)
        at = torch.randint(0, len(self.base), (n,), generator=draw)
        ids[torch.arange(n), at] = torch.randint(1, self.n_vocab, (n,), generator=draw)
        return ids


class HandWritten:
    """What a careful user would write for one template."""

    def __init__(self, problem: Problem) -> None:
        from transformers import DynamicCache  # noqa: PLC0415 - as above

        self._new_cache = DynamicCache
        self.model, self.tokenizer = problem.model, problem.tokenizer
        self.target = torch.tensor(problem.encode(problem.target))
        self.tail = torch.cat([torch.tensor(problem.encode(problem.after)), self.target])
        self.table = self.model.get_input_embeddings().weight.detach()
        before = torch.tensor([problem.encode(problem.before)])
        with torch.no_grad():
            self.prefix = self.model(input_ids=before, use_cache=True).past_key_values

    def losses(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the loss of each candidate."""
        with torch.no_grad():
            return torch.cat([self._losses(self.table[part]) for part in ids.split(CHUNK)])

    def gradient(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the gradient with regard to one-hot tokens."""
        one_hot = torch.nn.functional.one_hot(ids, len(self.table))
        weights = one_hot.to(self.table.dtype).requires_grad_()
        return torch.autograd.grad(self._losses(weights @ self.table).sum(), weights)[0]

    def encode(self, ids: torch.Tensor) -> Any:
        """Decode the candidates and encode them again, in one batch each."""
        return self.tokenizer(self.tokenizer.batch_decode(ids), add_special_tokens=False)

    def step(self, ids: torch.Tensor, n: int) -> torch.Tensor:
        """Make one step of GCG."""
        top = (-self.gradient(ids)).topk(TOP_K, dim=-1).indices[0]
        at = torch.randint(0, ids.shape[1], (n,))
        rows = ids.repeat(n, 1)
        rows[torch.arange(n), at] = top[at, torch.randint(0, TOP_K, (n,))]
        texts = self.tokenizer.batch_decode(rows)
        again = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        same = [one == row for one, row in zip(again, rows.tolist(), strict=True)]
        rows = rows[torch.tensor(same)]
        return rows[self.losses(rows).argmin()][None]

    def products(self, ids: torch.Tensor, base: torch.Tensor) -> None:
        """Multiply by the weights what no evaluation can do without, and do nothing else.

        That is, all positions from the first that differs from the base row's up to the last but
        one of the target, and the LM head for those that predict the target.
        """
        first = (ids != base).int().argmax(dim=1)
        n_rows = int((ids.shape[1] + len(self.tail) - 1 - first).sum())
        blocks = [m for m in self.model.model.layers.modules() if isinstance(m, torch.nn.Linear)]
        head = self.model.get_output_embeddings()
        with torch.no_grad():
            for linears, n in ((blocks, n_rows), ([head], len(ids) * len(self.target))):
                for linear in linears:
                    given = torch.randn(PRODUCT_ROWS, linear.in_features)
                    for start in range(0, n, PRODUCT_ROWS):
                        linear(given[: n - start])

    def _losses(self, trigger: torch.Tensor) -> torch.Tensor:
        n, n_target = len(trigger), len(self.target)
        tail = self.table[self.tail]
        embeds = torch.cat([trigger, tail.expand(n, *tail.shape)], dim=1)
        cache = self._new_cache()
        for i, layer in enumerate(self.prefix.layers):
            cache.update(*(kv.expand(n, -1, -1, -1) for kv in (layer.keys, layer.values)), i)
        logits = self.model(
            inputs_embeds=embeds, past_key_values=cache, logits_to_keep=n_target + 1
        ).logits[:, :-1]
        targets = self.target.expand(n, n_target)
        nll = torch.nn.functional.cross_entropy(logits.mT, targets, reduction="none")
        return nll.mean(dim=1)


def hand_written(problem: Problem) -> Pieces:
    """Return the pieces in plain PyTorch."""
    hand = HandWritten(problem)
    return {
        "losses": lambda n: hand.losses(problem.candidates(n)),
        "gradient": lambda n: hand.gradient(problem.base[None]),
        "filter": lambda n: hand.encode(problem.candidates(n)),
        "products": lambda n: hand.products(problem.candidates(n), problem.base),
        "step": lambda n: hand.step(problem.base[None], n),
    }


def pellucid(problem: Problem) -> Pieces:
    """Return the pieces of this workspace's packages."""
    from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER, Targets  # noqa: PLC0415 - only here
    from pellucid.hf import LMHFModel  # noqa: PLC0415
    from pellucid.losses import PrefillCELoss  # noqa: PLC0415
    from pellucid.optimizers import GCGOptimizer  # noqa: PLC0415

    lm, loss = LMHFModel(problem.model, tokenizer=problem.tokenizer), PrefillCELoss()
    template = f"{problem.before} {OPTIMIZED_TRIGGER_PLACEHOLDER} {problem.after}"
    targets = Targets(target_response_strs=[problem.target])
    lm.set_inputs_from_tokens([template], targets)
    inputs: Any = lm._token_input_manager  # pyright: ignore[reportPrivateUsage] - what it is timed on

    def steps(n: int, num_steps: int) -> None:
        optimizer = GCGOptimizer(lm, loss, num_steps=num_steps, n_candidates=n, seed=0)
        optimizer.optimize_trigger([template], problem.trigger, targets)
        lm.set_inputs_from_tokens([template], targets)

    return {
        "losses": lambda n: lm.compute_loss_from_tokens(problem.candidates(n), loss),
        "gradient": lambda n: lm.compute_grad_from_tokens(loss, problem.base[None]),
        "filter": lambda n: inputs.retokenization_mask(problem.candidates(n)),
        "run 1": lambda n: steps(n, 1),
        "run 3": lambda n: steps(n, 3),
    }


def tropt(problem: Problem) -> Pieces:
    """Return the pieces of TROPT."""
    from tropt.common import OPTIMIZED_TRIGGER_PLACEHOLDER, Targets  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer
    from tropt.loss.losses import PrefillCELoss  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer
    from tropt.model.huggingface.lm import LMHFModel  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer
    from tropt.optimizer.gcg_optimizer import GCGOptimizer  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer
    from tropt.optimizer.utils.retokenization import retokenize_filtering  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer

    problem.tokenizer.save_pretrained(problem.folder)
    lm: Any = LMHFModel(str(problem.folder), loaded_model=problem.model)
    loss: Any = PrefillCELoss()
    template = f"{problem.before} {OPTIMIZED_TRIGGER_PLACEHOLDER} {problem.after}"
    targets = Targets(target_response_strs=[problem.target])
    lm.set_inputs_from_tokens([template], targets)

    def steps(n: int, num_steps: int) -> None:
        optimizer = GCGOptimizer(lm, loss, num_steps=num_steps, n_candidates=n, seed=0)
        optimizer.optimize_trigger([template], problem.trigger, targets)
        lm.set_inputs_from_tokens([template], targets)

    base = problem.base[None]
    return {
        "losses": lambda n: lm.compute_loss_from_tokens(problem.candidates(n), loss),
        "gradient": lambda n: lm.compute_grad_from_tokens(loss, base),
        "filter": lambda n: retokenize_filtering(problem.candidates(n), lm.tokenizer),
        "run 1": lambda n: steps(n, 1),
        "run 3": lambda n: steps(n, 3),
    }


def nanogcg(problem: Problem) -> Pieces:
    """Return the pieces of nanoGCG."""
    from nanogcg.gcg import GCG, GCGConfig, filter_ids  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a peer

    prompt = f"{problem.before} {{optim_str}} {problem.after}"

    def steps(n: int, num_steps: int) -> Any:
        config = GCGConfig(
            num_steps=num_steps,
            optim_str_init=problem.trigger,
            search_width=n,
            batch_size=CHUNK,
            topk=TOP_K,
            seed=0,
            verbosity="ERROR",
        )
        gcg = GCG(problem.model, problem.tokenizer, config)
        gcg.run(prompt, problem.target)
        return gcg

    gcg = steps(8, 1)

    def losses(n: int) -> Any:
        trigger = gcg.embedding_layer(problem.candidates(n))
        tail = [part.repeat(n, 1, 1) for part in (gcg.after_embeds, gcg.target_embeds)]
        with torch.no_grad():
            embeds = torch.cat([trigger, *tail], dim=1)
            return gcg._compute_candidates_loss_original(CHUNK, embeds)

    return {
        "losses": losses,
        "gradient": lambda n: gcg.compute_token_gradient(problem.base[None]),
        "filter": lambda n: filter_ids(problem.candidates(n), problem.tokenizer),
        "run 1": lambda n: steps(n, 1),
        "run 3": lambda n: steps(n, 3),
    }


def main() -> None:
    """Answer one request a line until there are no more."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(int(sys.argv[3]))
    builders = {f.__name__.replace("_", "-"): f for f in (hand_written, pellucid, tropt, nanogcg)}
    answers = sys.stdout
    # What the packages print would be taken for an answer.
    with contextlib.redirect_stdout(sys.stderr):
        pieces = builders[sys.argv[1]](Problem(Path(sys.argv[2])))
        print(json.dumps({"pieces": list(pieces), "torch": torch.__version__}), file=answers)
        answers.flush()
        for line in sys.stdin:
            asked = json.loads(line)
            torch.manual_seed(0)
            began, used = time.perf_counter(), time.process_time()
            result = pieces[asked["piece"]](asked["n"])
            answer: dict[str, Any] = {
                "wall": 1000 * (time.perf_counter() - began),
                "cpu": 1000 * (time.process_time() - used),
            }
            if asked["piece"] == "losses":
                answer["losses"] = result.flatten().tolist()
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
