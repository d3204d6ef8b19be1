"""Trackers: an id that survives a resume, a missing package before the run, failures said once."""

import sys
import types

import pytest

from ftjax.report import tracking
from ftjax.report.trackers import mlflow, trackio, wandb

RUN = tracking.Run("lora", "sweep", {"steps": 3, "optim": {"learning_rate": 0.1}, "data": {}})


class Fake(types.ModuleType):
    """Stands for the three packages: notes what they are asked for."""

    Error = type("Error", (Exception,), {})
    MlflowException = type("MlflowException", (Exception,), {})

    def __init__(self):
        super().__init__("fake")
        self.calls, self.fails = [], None
        self.run = self
        self.name = "lora-2"  # of trackio, where "lora" is taken
        self.info = types.SimpleNamespace(run_id="m1")
        self.exceptions = self

    def __getattr__(self, name):
        def call(*args, **options):
            if self.fails == name:
                raise self.Error("the network is gone")
            self.calls.append((name, args, options))
            return self

        return call

    def asked(self, name):
        return [(args, options) for called, args, options in self.calls if called == name]


@pytest.fixture
def fake(monkeypatch):
    found = Fake()
    for name in ("wandb", "mlflow", "mlflow.exceptions", "trackio"):
        monkeypatch.setitem(sys.modules, name, found)
    return found


def track(tmp_path, name, rows=((1, {"loss": 1.0, "eval/x": None}),)):
    spec = dict(name=name, project="p")
    writer = tracking.build(spec, run=RUN, path=tmp_path / "tracker.json")
    writer.rewind(0)
    for step, row in rows:
        writer.write(step, row)
    writer.close()


START = {"wandb": "init", "mlflow": "start_run", "trackio": "init"}
LOG = {"wandb": "log", "mlflow": "log_metrics", "trackio": "log"}
END = {"wandb": "finish", "mlflow": "end_run", "trackio": "finish"}


@pytest.mark.parametrize("name", START)
def test_rows_are_sent_and_the_run_is_finished(name, fake, tmp_path):
    track(tmp_path, name)
    assert fake.asked(LOG[name]) == [(({"loss": 1.0},), {"step": 1})]
    assert fake.asked(END[name]) == [((), {})]
    called = [call for call, *_ in fake.calls]
    assert called.index(START[name]) < called.index(LOG[name]) < called.index(END[name])


def test_wandb_goes_on_under_its_id(fake, tmp_path):
    track(tmp_path, "wandb")
    track(tmp_path, "wandb")
    (_, first), (_, second) = fake.asked("init")
    assert first["id"] == second["id"] != ""
    assert (second["project"], second["name"], second["group"]) == ("p", "lora", "sweep")
    assert second["resume"] == "allow"
    track(tmp_path / "another", "wandb")
    assert fake.asked("init")[2][1]["id"] != first["id"]


def test_mlflow_goes_on_under_its_id_and_keeps_its_parameters(fake, tmp_path):
    track(tmp_path, "mlflow")
    track(tmp_path, "mlflow")
    (_, first), (_, second) = fake.asked("start_run")
    assert first == {"run_name": "lora", "tags": {"group": "sweep"}}
    assert second == {"run_id": "m1"}
    assert fake.asked("set_experiment") == [(("p",), {})] * 2
    expected = {"steps": "3", "optim.learning_rate": "0.1"}
    assert fake.asked("log_params") == [((expected,), {})]


def test_trackio_goes_on_by_its_name(fake, tmp_path):
    track(tmp_path, "trackio")
    track(tmp_path, "trackio")
    (_, first), (_, second) = fake.asked("init")
    assert (first["name"], first["resume"], first["group"]) == ("lora", "never", "sweep")
    assert (second["name"], second["resume"]) == ("lora-2", "allow")


@pytest.mark.parametrize("fails", ["init", "log", "finish"])
def test_a_failure_is_said_once_and_training_goes_on(fails, fake, tmp_path):
    fake.fails = fails
    with pytest.warns(RuntimeWarning, match="network is gone; training goes on") as warned:
        track(tmp_path, "wandb", rows=((1, {"loss": 1.0}), (2, {"loss": 1.0})))
    assert len(warned) == 1
    assert len(fake.asked("log")) == (2 if fails == "finish" else 0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (dict(name="wandb", project="p"), r"tracker\.name: got 'wandb', and the package 'wandb'"),
        (dict(name="mlflow", project="p"), r'run `pip install "ftjax\[mlflow\]"`'),
        (dict(name="wandb", project=""), r"tracker\.project: got none for 'wandb'; expected"),
        (dict(name="wandbb", project="p"), "did you mean 'wandb'"),
    ],
)
def test_what_is_wrong_is_found_before_the_run(spec, message, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        tracking.check(spec)


def test_no_tracker_is_asked_for_by_default(monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    tracking.check(dict(name="", project=""))
    assert {module.PACKAGE for module in (wandb, mlflow, trackio)} == set(START)
