"""Model cards, filled in from a config and from what a training run reports."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from pellucid.tptt._later_names import render_template

_VARIABLE = re.compile(r"\{([^{}]*)\}")
_UNKNOWN = "N/A"


def extract_template_variables(template: str) -> set[str]:
    """Return what stands in the innermost braces of a template."""
    return set(_VARIABLE.findall(template))


def generate_model_card(
    path: str,
    config: PretrainedConfig,
    template: str | None = None,
    extra_variables: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> None:
    """Write a model's README.md.

    Args:
        path: The model's directory, made if it is not there; its name is the model's.
        config: Whose fields are filled in; those of a dict in it as `field_key`.
        template: A template of Jinja2, which is given `config` whole, `model_id` and what follows;
            the package's own template when omitted.
        extra_variables: What else is filled in, such as `loss` or `train_runtime`; it goes before
            the config. What nobody says is "N/A", or empty in a template of one's own.
        **kwargs: Likewise.

    Raises:
        FileNotFoundError: If there is no such template.
    """
    extra = {"model_id": Path(path).name, **(extra_variables or {}), **kwargs}
    if template is None:
        text = _fill_own({**_flatten(config.to_dict()), **_flatten(extra)})
    else:
        text = render_template(template, {"config": config, **extra})
    Path(path).mkdir(parents=True, exist_ok=True)
    Path(path, "README.md").write_text(text, encoding="utf-8")


def _fill_own(values: Mapping[str, Any]) -> str:
    template = Path(__file__).with_name("model_card_template.md").read_text(encoding="utf-8")

    def fill(found: re.Match[str]) -> str:
        value = values.get(found[1])
        if isinstance(value, (list, tuple, set)):
            return ", ".join(map(str, value))
        return _UNKNOWN if value is None else str(value)

    return _VARIABLE.sub(fill, template)


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}_{key}": inner for key, inner in value.items()})
        else:
            flat[name] = value
    return flat
