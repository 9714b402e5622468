"""Model cards, filled in from a config and from what a training run reports."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

_VARIABLE = re.compile(r"\{([^{}]*)\}")
_UNKNOWN = "N/A"


def extract_template_variables(template: str) -> set[str]:
    """Return what stands in the innermost braces of a template."""
    return set(_VARIABLE.findall(template))


def generate_model_card(path: str, config: PretrainedConfig, **kwargs: Any) -> None:
    """Write a model's README.md.

    Args:
        path: The model's directory, made if it is not there; its name is the model's.
        config: Whose fields are filled in; those of a dict in it as `field_key`.
        **kwargs: What else is filled in, such as `loss` or `train_runtime`; it goes before the
            config. What nobody says is "N/A".
    """
    template = Path(__file__).with_name("model_card_template.md").read_text(encoding="utf-8")
    values = {"model_id": Path(path).name, **_flatten(config.to_dict()), **_flatten(kwargs)}

    def fill(found: re.Match[str]) -> str:
        value = values.get(found[1])
        if isinstance(value, (list, tuple, set)):
            return ", ".join(map(str, value))
        return _UNKNOWN if value is None else str(value)

    Path(path).mkdir(parents=True, exist_ok=True)
    Path(path, "README.md").write_text(_VARIABLE.sub(fill, template), encoding="utf-8")


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}_{key}": inner for key, inner in value.items()})
        else:
            flat[name] = value
    return flat
