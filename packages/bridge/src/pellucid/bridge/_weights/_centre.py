"""Taking away means that no norm and no softmax lets through."""

from collections.abc import Iterator

from torch import nn

from pellucid.bridge._architectures._trials import Change, find_visible, shift
from pellucid.bridge._names._describe_parts import BlockView
from pellucid.bridge._weights._ground import Ground
from pellucid.bridge._weights._ledger import Ledger, read_exactly
from pellucid.bridge._weights._table import NORMS
from pellucid.bridge._weights._views import StackedViews, WeightView, read_parameter

_WRITERS = ("W_O", "b_O", "W_out", "b_out")
_TABLES = ("W_E", "W_pos")


class WriterCentring:
    """What `center_writing_weights` does: what is added to the stream has mean 0.

    It needs every reader of the stream to be a LayerNorm, which takes the mean away.

    Args:
        ground: The model.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def find_obstacle(self) -> str | None:
        """Return what reads the stream with its mean, None if nothing does."""
        found = (obstacle for view in self._ground.blocks() for obstacle in self._check(view))
        first = next(found, None) or self._check_end()
        if first is not None:
            return first
        modules = {view.module: name for name, view in self._writers()}
        trials = {name: [Change(module, "after", shift)] for module, name in modules.items()}
        visible = find_visible(self._ground, trials)
        return visible and f"the mean of what {visible} writes is read by something"

    def _check_end(self) -> str | None:
        if self._is_post_norm():
            return None
        final = list(self._ground.parts("ln_final"))
        if not final:
            return "the stream is unembedded without a norm before it"
        return next((o for name, norm in final if (o := self._check_norm(name, norm))), None)

    def _is_post_norm(self) -> bool:
        return all(stack.block.is_post_norm for stack in self._ground.record.stacks)

    def _check(self, view: BlockView) -> Iterator[str]:
        record = view.record
        for short in NORMS:
            norm = view.find(getattr(record, short))
            if norm is not None:
                obstacle = self._check_norm(f"{view.name}.{short}", norm)
                if obstacle is not None:
                    yield obstacle
        if record.is_post_norm:
            needed = {
                "ln1_post": record.attn,
                "ln2_post": record.mlp,
                "ln_cross": record.cross_attn,
            }
        else:
            needed = {"ln1": record.attn, "ln_cross": record.cross_attn}
            needed |= {} if view.is_parallel else {"ln2": record.mlp}
        for short, part in needed.items():
            is_there = part is not None and view.find(part.path) is not None
            if is_there and view.find(getattr(record, short)) is None:
                yield f"{view.name} has no {short}: something reads the stream with its mean"

    def _check_norm(self, name: str, norm: nn.Module) -> str | None:
        formula = self._ground.formula(norm)
        if formula is None or not formula.is_centred:
            return f"{name} is a {type(norm).__name__}, which lets the mean through"
        return None

    def apply(self, ledger: Ledger) -> None:
        """Centre everything that writes to the stream."""
        for _, view in self._writers():
            _centre(view, ledger)

    def _writers(self) -> Iterator[tuple[str, WeightView]]:
        tables = _TABLES if self._reads_tables_by_norm() else ()
        for name, spec in self._ground.weights.items():
            if name.rpartition(".")[2] not in (*_WRITERS, *tables):
                continue
            source = spec.source
            views = source.views if isinstance(source, StackedViews) else (source,)
            for view in views:
                if isinstance(view, WeightView) and view.get().shape[-1] == self._ground.width:
                    yield name, view

    def _reads_tables_by_norm(self) -> bool:
        norms = list(self._ground.parts("embed_ln"))
        if norms:
            return all(self._check_norm(name, norm) is None for name, norm in norms)
        # Without one, the first block of a post-norm model reads the embeddings themselves.
        return not self._is_post_norm()


class UnembeddingCentring:
    """What `center_unembed` does: the logits' mean over the vocabulary is 0.

    It needs logits that go into softmax as the unembedding gives them.

    Args:
        ground: The model.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def find_obstacle(self) -> str | None:
        """Return what keeps the logits from being shifted, None if nothing does."""
        cap = self._ground.bridge.cfg.output_logits_soft_cap
        if cap > 0:
            return f"the logits are capped at {cap}, which is not linear"
        spec = self._ground.weights.get("unembed.W_U")
        if spec is None or not isinstance(spec.source, WeightView):
            return "the model has no unembedding"
        module = spec.source.module
        read_parameter(module, spec.source.parameter)
        visible = find_visible(self._ground, {"unembed": [Change(module, "after", shift)]})
        return visible and "the logits are changed by more than softmax after the unembedding"

    def apply(self, ledger: Ledger) -> None:
        """Centre the unembedding and its bias."""
        for name in ("unembed.W_U", "unembed.b_U"):
            spec = self._ground.weights.get(name)
            if spec is not None and isinstance(spec.source, WeightView):
                _centre(spec.source, ledger)


def _centre(view: WeightView, ledger: Ledger) -> None:
    whole = read_exactly(view.module, view.parameter)
    part = view.read(whole)
    made = view.place(whole, part - part.mean(-1, keepdim=True))
    ledger.write(view.module, view.parameter, made)
