"""What xlm tells Hydra of families is not told to others who use Hydra in the process."""

from pathlib import Path

from hydra import compose, initialize_config_dir

from pellucid.xlm._compose import compose_config, register_families


def test_other_applications_keep_their_own_keys(tmp_path: Path) -> None:
    register_families()
    (tmp_path / "config.yaml").write_text("model: tiny\n", encoding="utf-8")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        # Families have a group of this name, of which this would be an option.
        assert compose("config", overrides=["model=other"]).model == "other"
    assert compose_config(["job_name=x"], check=False).job_name == "x"
