"""``--track``: runs in Weights & Biases and MLflow, for real and without a network."""

import os
import subprocess
import sys

import pytest

from rlsd.cli import extras
from rlsd.cli.main import main
from rlsd.cli.runfolder import RunFolder

SMALL = ["--env", "CartPole-v1", "--n-envs", "2", "--no-progress", "--eval-freq", "0", "--eval-episodes", "0"]
PARAMS = ["-params", "n_steps:32", "batch_size:32"]


def test_a_tracker_that_there_is_not_is_refused(refused, tmp_path):
    said = refused("train", *SMALL, "--track", "wandbe", "-f", str(tmp_path / "logs"))
    assert "unknown --track 'wandbe'; did you mean wandb" in said and not (tmp_path / "logs").exists()


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(refused, monkeypatch, tmp_path):
    monkeypatch.setitem(extras.EXTRAS, "track", ("no_such_tracker",))
    said = refused("train", *SMALL, "--track", "mlflow", "-f", str(tmp_path / "logs"))
    assert "--track mlflow needs no_such_tracker: pip install 'rlsd[track]'" in said
    assert not (tmp_path / "logs").exists()


def run(tmp_path, tracker, n, *words):
    return main(["train", *words, "-n", str(n), "--track", tracker, "-f", str(tmp_path / "logs")])


@pytest.mark.slow  # the tracker's own import and services
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_settings_and_the_curves_also_of_a_run_that_is_resumed(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(None)
    assert run(tmp_path, "mlflow", 128, *SMALL, *PARAMS) == 0
    folder = RunFolder(tmp_path / "logs" / "ppo" / "CartPole-v1_1", "CartPole-v1")
    known = folder.read_yaml("track.yml")["mlflow"]
    assert run(tmp_path, "mlflow", 256, "--resume", str(folder.root)) == 0
    assert folder.read_yaml("track.yml")["mlflow"] == known, "it went on as another run"
    found = mlflow.get_run(known)
    assert found.data.params["recipe"] == "guard" and found.info.status == "FINISHED"
    curve = mlflow.MlflowClient().get_metric_history(known, "rollout/ep_rew_mean")
    assert max(point.step for point in curve) == 256


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_reads_tensorboard_along_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert run(tmp_path, "wandb", 128, *SMALL, *PARAMS) == 0
    (kept,) = (tmp_path / "logs" / "ppo" / "CartPole-v1_1" / "wandb").glob("offline-run-*/run-*.wandb")
    content = kept.read_bytes()
    assert b"rollout/ep_rew_mean" in content and b"guard" in content


@pytest.mark.slow
def test_wandb_without_a_login_is_refused_before_anything_is_made(tmp_path):
    pytest.importorskip("wandb")
    known = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    known |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    words = ["train", *SMALL, "--track", "wandb", "-f", str(tmp_path / "logs")]
    # A process of its own: wandb remembers what mode an earlier run had.
    done = subprocess.run([sys.executable, "-m", "rlsd", *words], env=known, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "wandb login" in done.stderr and not (tmp_path / "logs").exists()
