"""Each service is tried for real, offline, and what it wrote is read back."""

import json
import os
import sys
import time
import warnings

import pytest

from pellucid.core import MissingDependencyError, Targets
from pellucid.optimizers import GCGOptimizer, TensorBoardTracker, TrackioTracker, WandbTracker
from pellucid.testing import TinyLM, TinyResponseLoss, TrackerContract

CLASSES = {
    "tensorboard": TensorBoardTracker,
    "trackio": TrackioTracker,
    "wandb": WandbTracker,
}


@pytest.fixture(autouse=True)
def services(tmp_path, monkeypatch):
    """Keep what services write in one folder, and keep them from the network."""
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import trackio

        folder = tmp_path / "trackio"
        folder.mkdir()
        # It reads its folder once, when it is imported, and keeps a copy in each module.
        for module in [m for n, m in sys.modules.items() if n.partition(".")[0] == "trackio"]:
            for name in ("TRACKIO_DIR", "MEDIA_DIR", "ARTIFACTS_DIR"):
                if hasattr(module, name):
                    below = folder if name == "TRACKIO_DIR" else folder / name
                    monkeypatch.setattr(module, name, below)
    trackio.context_vars.current_project.set(None)
    return tmp_path


def make(name, folder, experiment_name="mine", **options):
    if name == "tensorboard":
        return TensorBoardTracker(folder / "boards", experiment_name, **options)
    if name == "wandb":  # it reads the environment once
        options |= {"dir": str(folder), "mode": "offline"}
    return CLASSES[name](experiment_name=experiment_name, **options)


class ServiceContract(TrackerContract):
    name = ""

    @pytest.fixture(autouse=True)
    def _folder(self, services):
        self.folder = services

    def make_tracker(self):
        return make(self.name, self.folder)


class TestWandb(ServiceContract):
    name = "wandb"


class TestTensorBoard(ServiceContract):
    name = "tensorboard"


class TestTrackio(ServiceContract):
    name = "trackio"


def read_wandb(folder):
    """Return the configuration, the steps and the summary of each run that lies in a folder."""
    runs = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        run = {"id": path.stem.removeprefix("run-"), "config": {}, "steps": [], "summary": {}}
        for record in wait_for_records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run["name"] = record.run.display_name
                run["config"] |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
            elif kind == "history":
                items = record.history.item
                step = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
                run["steps"].append(step)
            elif kind == "summary":
                updates = record.summary.update
                run["summary"] |= {
                    "/".join(u.nested_key) or u.key: json.loads(u.value_json) for u in updates
                }
            elif kind == "exit":
                run["exit_code"] = record.exit.exit_code
        runs.append(run)
    return runs


def wait_for_records(path):
    """Return the records of a run; a process of wandb's own writes the last of them late."""
    from wandb.proto import wandb_internal_pb2

    for _ in range(100):
        records = [
            wandb_internal_pb2.Record.FromString(payload)
            for payload in read_leveldb_log(path.read_bytes())
        ]
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.1)
    pytest.fail(f"{path} was never finished.")


def read_leveldb_log(data, header=7, block=32768):
    """Yield the records of a log of LevelDB's, whose pieces never cross the end of a block."""
    place, record = header, b""
    while place + header <= len(data):
        if block - place % block < header:
            place += block - place % block
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + header : place + header + length]
        place += header + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield record
            record = b""


def read_board(folder, name="mine"):
    """Return the scalars and the texts of a run's event files, by name: (step, value) pairs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder / "boards" / name)).Reload()
    tags = events.Tags()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}
    texts = {
        tag.removesuffix("/text_summary"): [
            (e.step, e.tensor_proto.string_val[0].decode()) for e in events.Tensors(tag)
        ]
        for tag in tags["tensors"]
    }
    return scalars, texts


def read_trackio(name="mine", project="pellucid"):
    from trackio.sqlite_storage import SQLiteStorage

    logs = SQLiteStorage.get_logs(project, name)
    return SQLiteStorage.get_run_config(project, name), logs


def record(tracker, steps=(1, 2), **config):
    tracker.init({"seed": 1, "targets": None, **config})
    for step in steps:
        tracker.log({"step": step, "loss": 1 / step, "trigger": f"the {step}\n<b>"})
    tracker.finish({"status": "finished", "best_loss": 0.5, "verified_loss": None})


def test_wandb_has_configuration_steps_and_summary(services):
    tracker = make("wandb", services, experiment_config={"note": "x"}, project_name="mine-too")
    record(tracker)
    (run,) = read_wandb(services)
    assert (run["id"], run["name"], run["exit_code"]) == (tracker.run_id, "mine", 0)
    assert run["config"] | {"seed": 1, "targets": None, "note": "x"} == run["config"]
    assert [(s["_step"], s["loss"], s["trigger"]) for s in run["steps"]] == [
        (1, 1.0, "the 1\n<b>"),
        (2, 0.5, "the 2\n<b>"),
    ]
    assert run["summary"] | {"status": "finished", "best_loss": 0.5} == run["summary"]


def test_wandb_goes_on_under_the_id_of_the_run_it_resumes(services):
    first = make("wandb", services)
    record(first)
    begun = first.run_id
    record(first, steps=(3,), resume_from_step=2)
    later = make("wandb", services, run_id=begun)
    record(later, steps=(4,), resume_from_step=3)
    assert first.run_id == later.run_id == begun
    record(later)  # another run, not a continuation
    runs = read_wandb(services)
    # One folder for each continuation; two of one second share theirs, and the later one's stays.
    assert {run["id"] for run in runs} == {begun, later.run_id}
    assert later.run_id != begun
    steps = {run["id"]: [step["_step"] for step in run["steps"]] for run in runs}
    assert steps[later.run_id] == [1, 2]
    assert steps[begun] == [4]


def test_tensorboard_has_scalars_and_texts(services):
    record(make("tensorboard", services))
    scalars, texts = read_board(services)
    assert scalars["loss"] == [(1, 1.0), (2, 0.5)]
    assert scalars["summary/best_loss"] == [(2, 0.5)]
    assert [text for _, text in texts["trigger"]] == ["    the 1\n    <b>", "    the 2\n    <b>"]
    assert '"seed": 1' in texts["config"][0][1]
    assert "summary/verified_loss" not in scalars


def test_tensorboard_goes_on_in_the_latest_folder_and_voids_what_is_made_again(services):
    record(make("tensorboard", services))
    record(make("tensorboard", services), steps=(1, 2, 3))
    record(make("tensorboard", services), steps=(3, 4), resume_from_step=2)
    assert sorted(os.listdir(services / "boards")) == ["mine", "mine-2"]
    scalars, _ = read_board(services, "mine-2")
    assert [step for step, _ in scalars["loss"]] == [1, 2, 3, 4]
    assert [step for step, _ in read_board(services)[0]["loss"]] == [1, 2]


def test_trackio_has_configuration_steps_and_summary(services):
    record(make("trackio", services, experiment_config={"note": "x"}))
    config, logs = read_trackio()
    assert config | {"seed": 1, "targets": None, "note": "x"} == config
    assert [(log["step"], log["loss"]) for log in logs[:2]] == [(1, 1.0), (2, 0.5)]
    assert logs[0]["trigger"] == "the 1\n<b>"
    assert (logs[2]["summary/status"], logs[2]["summary/best_loss"]) == ("finished", 0.5)


def test_trackio_goes_on_with_the_run_of_the_name(services):
    record(make("trackio", services))
    record(make("trackio", services), steps=(3,), resume_from_step=2)
    from trackio.sqlite_storage import SQLiteStorage

    assert SQLiteStorage.get_runs("pellucid") == ["mine"]
    losses = [log["step"] for log in read_trackio()[1] if "loss" in log]
    assert losses == [1, 2, 3]


def read_steps(name, folder):
    """Return the steps that a service has of the one run in a folder, and how the run ended."""
    if name == "tensorboard":
        scalars, texts = read_board(folder)
        return [step for step, _ in scalars["loss"]], texts["summary/status"][0][1].strip()
    if name == "trackio":
        _, logs = read_trackio()
        return [log["step"] for log in logs if "loss" in log], logs[-1]["summary/status"]
    (run,) = read_wandb(folder)
    return [step["_step"] for step in run["steps"]], run["summary"]["status"]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "finished"), (KeyError, "failed"), (KeyboardInterrupt, "interrupted")],
)
def test_a_run_is_recorded_and_finished_whatever_ends_it(services, name, error, status):
    def end(step):
        if error is not None and step.step == 2:
            raise error

    tracker = make(name, services)
    optimizer = GCGOptimizer(
        TinyLM(), TinyResponseLoss(), tracker, 0, num_steps=3, n_candidates=4, sample_topk=4
    )
    run = optimizer.iterate(
        ["Say{{OPTIMIZED_TRIGGER}}."],
        " the cat",
        Targets(target_response_strs=["yes"]),
        callbacks=[end],
    )
    if error is None:
        list(run)
    else:
        with pytest.raises(error):
            list(run)
    assert not tracker._is_active
    assert read_steps(name, services) == ([1, 2, 3] if error is None else [1, 2], status)


@pytest.mark.parametrize("name", CLASSES)
def test_nothing_of_the_callers_is_changed(services, name, capsys):
    before = (list(warnings.filters), sys.excepthook, sys.exit, sys.stdout)
    record(make(name, services))
    assert (list(warnings.filters), sys.excepthook, sys.exit, sys.stdout) == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", CLASSES)
def test_without_the_service_the_extra_is_named(services, name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(
        MissingDependencyError, match=rf"pip install 'pellucid-optimizers\[{name}\]'"
    ):
        make(name, services)
