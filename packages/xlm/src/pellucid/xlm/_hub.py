"""A trained model on the Hugging Face hub; the extra `hub` is needed for all of it."""

import tempfile
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pellucid.core import MissingDependencyError
from pellucid.xlm._weights import load_weights, save_weights

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.yaml"

_CARD = """---
library_name: pellucid
tags:
- pellucid-xlm
---
# {title}

Trained with `pellucid.xlm`. `config.yaml` is the whole configuration of the run, and
`model.safetensors` the model's weights.

```console
xlm job_type=generate job_name=try experiment={experiment} hub.repo_id={title}
```
"""


def save_pretrained(harness: Any, directory: str | Path, *, title: str, experiment: str) -> None:
    """Write weights, configuration and a card into a directory."""
    place = Path(directory)
    save_weights(harness.model, place / WEIGHTS_NAME, overwrite=True)
    (place / CONFIG_NAME).write_text(OmegaConf.to_yaml(harness.cfg), encoding="utf-8")
    card = _CARD.format(title=title, experiment=experiment)
    (place / "README.md").write_text(card, encoding="utf-8")


def push_to_hub(
    harness: Any, repo_id: str, *, experiment: str, private: bool = True, token: str | None = None
) -> str:
    """Upload a harness's model.

    Args:
        harness: Whose model and configuration.
        repo_id: `owner/name`; made if it is not there.
        experiment: Named in the card.
        private: Whether a new repository is.
        token: Of the hub; what its own login stored if None.

    Returns:
        The address of the commit.

    Raises:
        MissingDependencyError: The extra `hub` is not installed.
    """
    hub = _hub()
    api = hub.HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        save_pretrained(harness, directory, title=repo_id, experiment=experiment)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=directory, commit_message="Add weights and configuration"
        )
    return str(commit)


def load_from_hub(model: Any, repo_id: str, *, revision: str | None = None) -> None:
    """Download weights into a model, in place.

    Raises:
        MissingDependencyError: The extra `hub` is not installed.
        CheckpointError: The weights are of another model.
    """
    load_weights(model, _hub().hf_hub_download(repo_id, WEIGHTS_NAME, revision=revision))


def _hub() -> Any:
    try:
        import huggingface_hub  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "the hub needs an extra. pip install 'pellucid-xlm[hub]'"
        ) from error
    return huggingface_hub


__all__ = ["load_from_hub", "push_to_hub", "save_pretrained"]
