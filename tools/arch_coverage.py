"""What the bridge makes of every causal language model type of transformers, tried on tiny models.

Run it as `uv run python tools/arch_coverage.py`; `--types llama gpt2` for some only, `--page` to
write docs/architectures.md from what was found before. It goes on where it was stopped: results
stand in docs/measurements/architectures.jsonl, and a type that stands there is not tried again
unless it is named.
"""

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS = _DOCS / "measurements" / "architectures.jsonl"
PAGE = _DOCS / "architectures.md"
_N_AT_ONCE = 30
_MAX_PARAMETERS = 30_000_000
# Relative to the largest logit.
_TOLERANCE = 1e-5
_RESIDUAL = ("hook_resid_pre", "hook_resid_post")
_CHANGED = (
    *("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "hook_q", "hook_k", "hook_v"),
    *("hook_z", "hook_pattern", "hook_attn_scores", "hook_mlp_out", "expert_weights", "hook_post"),
    *("mixer.hook_out", "hook_embed"),
)
_ATTENTION = ("attn.hook_pattern", "attn.hook_z")


# Tiny models.


def make_config(kind: str) -> Any:
    """Return the configuration of a tiny model of a type.

    Raises:
        ValueError: If transformers has no configuration of this type.
    """
    from transformers import CONFIG_MAPPING  # noqa: PLC0415 - costs seconds

    from arch_configs import FIXES  # noqa: PLC0415 - where it is run from

    return _make(CONFIG_MAPPING[kind], FIXES.get(kind, {}))


def _make(kind: Any, fixes: Mapping[str, Any]) -> Any:
    from arch_configs import FIXES, GENERIC, WITH  # noqa: PLC0415 - where it is run from

    base = kind()
    chosen: dict[str, Any] = {}
    for name, value in GENERIC.items():
        is_read_only = isinstance(getattr(kind, name, None), property)
        if not is_read_only and _read(base, name) is not None:
            chosen[name] = value
    for name, more in WITH.items():
        chosen |= more if _read(base, name) is not None else {}
    for name, inner in getattr(kind, "sub_configs", {}).items():
        held = getattr(base, name, None)
        if held is not None:
            type_ = type(held) if inner.__name__ == "AutoConfig" else inner
            own = fixes.get(name, FIXES.get(getattr(type_, "model_type", ""), {}))
            is_plain = own.get("plain", False)
            rest = {n: v for n, v in own.items() if n != "plain"}
            chosen[name] = rest if is_plain else _make(type_, own).to_dict()
    chosen |= {n: v for n, v in fixes.items() if n not in getattr(kind, "sub_configs", {})}
    return kind(**{name: value for name, value in chosen.items() if value is not None})


def _read(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:
        # A configuration that refuses to say, layer by layer, has it.
        return True


def make_model(kind: str) -> Any:
    """Return a tiny random model of a type, with no norm or bias left as it was made.

    Raises:
        RuntimeError: If it is not tiny.
    """
    import torch  # noqa: PLC0415 - costs seconds
    import transformers  # noqa: PLC0415 - costs seconds

    names = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    held = names[kind]
    class_ = getattr(transformers, held if isinstance(held, str) else held[0])
    # Some types are those of a model with more than text, their causal model takes the text's.
    config = make_config(class_.config_class.model_type or kind)
    with torch.device("meta"):
        n_parameters = sum(p.numel() for p in class_(config).parameters())
    if n_parameters > _MAX_PARAMETERS:
        raise RuntimeError(f"{n_parameters} parameters are too many for a tiny model")
    torch.manual_seed(0)
    model = class_(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif not parameter.any():
                parameter.normal_(std=0.05)
    return model


# One type.


def examine(kind: str) -> dict[str, Any]:
    """Return what the bridge makes of a type."""
    found: dict[str, Any] = {"type": kind}
    try:
        model = make_model(kind)
        ids, more = make_inputs(model)
        logits = _run_plain(model, ids, more)
    except Exception as error:
        return {**found, "not_instantiated": _say(error)}
    found["class"] = type(model).__name__
    try:
        return {**found, **_Examination(model, ids, more, logits).run()}
    except Exception as error:
        return {**found, "not_bridged": _say(error)}


def make_inputs(model: Any) -> tuple[Any, dict[str, Any]]:
    """Return token ids, and what else a model of this kind needs."""
    import torch  # noqa: PLC0415 - costs seconds

    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
    is_two = getattr(model.config, "is_encoder_decoder", False)
    return ids, {"decoder_input_ids": ids} if is_two else {}


def _run_plain(model: Any, ids: Any, more: Mapping[str, Any]) -> Any:
    import torch  # noqa: PLC0415 - costs seconds

    with torch.no_grad():
        return model(input_ids=ids, **more).logits


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


class _Examination:
    def __init__(self, model: Any, ids: Any, more: dict[str, Any], logits: Any) -> None:
        from pellucid.bridge import TransformerBridge  # noqa: PLC0415 - costs seconds

        self.bridge = TransformerBridge(model)
        self._ids = ids
        self._more = more
        self._logits = logits
        self._scale = float(logits.abs().max().clamp(min=1))

    def run(self) -> dict[str, Any]:
        """Try every activation, then the sums of every block."""
        import torch  # noqa: PLC0415 - costs seconds

        with torch.no_grad():
            parity = torch.equal(self.bridge(self._ids, **self._more), self._logits)
            names = list(self.bridge.hook_table())
            defects = [*self._find_harmful(names), *self._check_sums()]
            without_effect = [name for name in names if self._is_inert(name)]
        adapter = self.bridge.adapter
        return {
            "parity": parity,
            "is_inferred": adapter.is_inferred,
            "n_points": len(self.bridge.hook_table()),
            "omits": list(adapter.omits),
            "residual": self._has(_RESIDUAL, defects, without_effect, any_block=False),
            "attention": self._has(_ATTENTION, defects, without_effect, any_block=True),
            "sums": self._list_sums(),
            "has_attention": self._count("attn.hook_in") > 0,
            "defects": defects,
            "without_effect": without_effect,
        }

    def _find_harmful(self, names: list[str]) -> list[str]:
        """Return what is wrong with activations that are put back as they are."""
        try:
            gap, seen = self._run_with(names, lambda value: value.clone())
        except Exception as error:
            if len(names) == 1:
                return [f"{names[0]}: {_say(error)}"]
        else:
            silent = [name for name in names if name not in seen]
            if gap <= _TOLERANCE * self._scale:
                return [f"{name}: does not occur" for name in silent]
            if len(names) == 1:
                return [f"{names[0]}: put back as it is, it changes the logits by {gap:.1e}"]
        half = len(names) // 2
        return [*self._find_harmful(names[:half]), *self._find_harmful(names[half:])]

    def _is_inert(self, name: str) -> bool:
        """Say whether to change an activation, of those that people do change, has no effect."""
        import torch  # noqa: PLC0415 - costs seconds

        known = {name, *self.bridge.hook_table()[name].aliases}
        if not any(each.endswith(_CHANGED) for each in known):
            return False
        torch.manual_seed(0)
        try:
            return not self._run_with([name], _disturb)[0]
        except Exception:
            # Putting it back has said already what is wrong.
            return True

    def _run_with(self, names: list[str], function: Any) -> tuple[float, set[str]]:
        seen: set[str] = set()

        def hook(value: Any, hook: Any) -> Any:
            seen.add(hook.name)
            return function(value)

        hooks = [(name, hook) for name in names]
        logits = self.bridge.run_with_hooks(self._ids, fwd_hooks=hooks, **self._more)
        return float((logits - self._logits).abs().max()), seen

    def _check_sums(self) -> list[str]:
        from pellucid.bridge._architectures._claims import find_false_claims  # noqa: PLC0415 - costs seconds

        bridge = self.bridge
        config = bridge.original_model.config
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        false = find_false_claims(bridge.original_model, bridge.adapter, text)
        return [f"{name}: is not what its name says" for name in false]

    def _list_sums(self) -> list[str]:
        names = ("hook_attn_out", "hook_resid_mid", "hook_mlp_out")
        return [name for name in names if self._count(name)]

    def _blocks(self) -> list[str]:
        from pellucid.bridge._names._describe import list_blocks  # noqa: PLC0415 - costs seconds

        stack = self.bridge.adapter.stacks[-1]
        n_blocks = len(list_blocks(self.bridge.original_model, stack))
        return [f"{stack.name}.{i}" for i in range(n_blocks)]

    def _count(self, name: str) -> int:
        table = self.bridge.hook_table()
        return sum(f"{block}.{name}" in table for block in self._blocks())

    def _has(
        self, names: Sequence[str], defects: list[str], inert: list[str], *, any_block: bool
    ) -> bool:
        table = self.bridge.hook_table()
        bad = {line.split(": ")[0] for line in defects} | set(inert)
        found = [
            all(
                f"{block}.{name}" in table and table.resolve(f"{block}.{name}") not in bad
                for name in names
            )
            for block in self._blocks()
        ]
        return any(found) if any_block else all(found)


def _disturb(value: Any) -> Any:
    import torch  # noqa: PLC0415 - costs seconds

    if value.is_floating_point():
        return value + torch.randn_like(value) * 0.5
    return value.roll(1, dims=-1)


# All types.


def list_types() -> list[str]:
    """Return every causal language model type of transformers."""
    from transformers.models.auto.modeling_auto import (  # noqa: PLC0415 - costs seconds
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    )

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _read_results() -> dict[str, dict[str, Any]]:
    if not RESULTS.exists():
        return {}
    rows = (json.loads(line) for line in RESULTS.read_text().splitlines())
    return {row["type"]: row for row in rows}


def _write_results(found: Mapping[str, dict[str, Any]]) -> None:
    rows = [json.dumps(found[kind], sort_keys=True) for kind in sorted(found)]
    RESULTS.write_text("".join(f"{row}\n" for row in rows))


def _examine_some(kinds: Sequence[str]) -> None:
    """Examine types in this process, one line of output for each."""
    import transformers  # noqa: PLC0415 - costs seconds

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    for kind in kinds:
        print(json.dumps(examine(kind)), flush=True)


def _examine_all(kinds: Sequence[str]) -> None:
    found = _read_results()
    for start in range(0, len(kinds), _N_AT_ONCE):
        chosen = kinds[start : start + _N_AT_ONCE]
        command = [sys.executable, __file__, "--worker", *chosen]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        ) as worker:
            for line in worker.stdout or ():
                if line.startswith("{"):
                    row = json.loads(line)
                    found[row["type"]] = row
                    _write_results(found)
                    print(_summarise(row), flush=True)


def _summarise(row: Mapping[str, Any]) -> str:
    failed = row.get("not_instantiated") or row.get("not_bridged")
    if failed:
        return f"{row['type']}: {failed}"
    words = [w for w in ("parity", "residual", "attention") if row[w]]
    return f"{row['type']}: {' '.join(words)}; defects {row['defects']}"


# The page.

_HEAD = """# Architectures

<!-- Written by tools/arch_coverage.py; run that instead of changing this. -->

What [pellucid-bridge](../packages/bridge/README.md) makes of every causal language model type of
transformers {version}, tried on a tiny random model of each. *Logits*: without hooks they are the
model's own, bit for bit. *Stream*: the residual stream before and after every block can be read,
put back without a trace, and changed to effect. *Attention*: the same of patterns and of what heads
gather. *Sums*: which parts are known to add up to the stream (`a` attention's result, `r` the
stream between attention and MLP, `m` the MLP's result); where a model joins its parts in another
way (a learned gate, a scale, several streams), the names are not offered. *From*: a record, or the
model's structure.

{counts}

| type | class | from | points | logits | stream | attention | sums | remarks |
|---|---|---|---|---|---|---|---|---|
"""


def render(found: Mapping[str, Mapping[str, Any]], version: str) -> str:
    """Return the page."""
    rows = [found[kind] for kind in sorted(found)]
    bridged = [row for row in rows if "parity" in row]
    counts = (
        f"{len(rows)} types: {sum('not_instantiated' not in r for r in rows)} have a tiny model "
        f"that runs, {sum(r['parity'] for r in bridged)} keep their logits, "
        f"{sum(r['residual'] for r in bridged)} have the stream, "
        f"{sum(r['residual'] and r['attention'] for r in bridged)} stream and attention."
    )
    lines = [_HEAD.format(version=version, counts=counts)]
    lines.extend(_render_row(row) for row in rows)
    return "".join(lines)


def _render_row(row: Mapping[str, Any]) -> str:
    failed = row.get("not_instantiated") or row.get("not_bridged")
    if failed:
        cell = str(failed).replace("|", "\\|")
        return f"| {row['type']} | {row.get('class', '')} | | | | | | | {cell} |\n"
    marks = {"hook_attn_out": "a", "hook_resid_mid": "r", "hook_mlp_out": "m"}
    cells = [
        row["type"],
        row["class"],
        "structure" if row["is_inferred"] else "record",
        str(row["n_points"]),
        *("yes" if row[w] else "no" for w in ("parity", "residual", "attention")),
        " ".join(marks[name] for name in row["sums"]),
        _remark(row),
    ]
    return f"| {' | '.join(cells)} |\n"


def _remark(row: Mapping[str, Any]) -> str:
    remarks: list[str] = []
    if not row["has_attention"]:
        remarks.append("no attention")
    if row["defects"]:
        remarks.append(f"{len(row['defects'])} defects")
    shown = [n for n in row["omits"] if n.endswith(("attn_out", "mlp_out", "resid_mid", "pattern"))]
    if shown:
        remarks.append("not offered: " + ", ".join(f"`{name}`" for name in shown))
    return "; ".join(remarks)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--types", nargs="*", help="only these, also if they stand there already")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--worker", nargs="*", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.worker is not None:
        _examine_some(chosen.worker)
        return 0
    if not chosen.page:
        held = _read_results()
        _examine_all(chosen.types or [kind for kind in list_types() if kind not in held])
    from transformers import __version__  # noqa: PLC0415 - costs seconds

    PAGE.write_text(render(_read_results(), __version__))
    return 0


if __name__ == "__main__":
    sys.exit(main())
