"""``rlsd push`` and ``rlsd pull``, against a Hub that is a folder: no network."""

import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import rlsd
from rlsd.cli import extras, hub
from rlsd.cli.main import main

REPO = "me/ppo-CartPole-v1"


class Response:
    def __init__(self, status):
        self.status_code = status


class HfHubHTTPError(Exception):
    def __init__(self, text, status=500):
        super().__init__(text)
        self.response = Response(status)


class RepositoryNotFoundError(HfHubHTTPError):
    pass


class LocalHub:
    """As much of ``huggingface_hub.HfApi`` as push and pull use."""

    def __init__(self, root):
        self.root = root

    def create_repo(self, repo_id, private, exist_ok):
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        self.private = private

    def upload_folder(self, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def snapshot_download(self, repo_id, local_dir, allow_patterns, revision):
        if not (self.root / repo_id).is_dir():
            raise RepositoryNotFoundError("404 Client Error", 404)
        for pattern in allow_patterns:
            for path in (self.root / repo_id).glob(pattern):
                shutil.copy(path, local_dir)


@pytest.fixture
def local(tmp_path, monkeypatch):
    api = LocalHub(tmp_path / "hub")
    for module in ("push", "pull"):
        monkeypatch.setattr(f"rlsd.cli.{module}.connect", lambda: api)
    return api


def small_env():
    return VecNormalize(make_vec_env("CartPole-v1", 2))


def test_what_is_pushed_comes_back_as_a_run_that_evaluates_alike(small_run, local, tmp_path, capsys):
    assert main(["push", str(small_run), "--repo", REPO]) == 0
    assert "stored states" in capsys.readouterr().out
    assert main(["pull", REPO, "-f", str(tmp_path / "logs")]) == 0
    pulled = tmp_path / "logs" / "ppo" / "CartPole-v1_1"
    assert f"rlsd enjoy {pulled}" in capsys.readouterr().out
    told = []
    for run in (small_run, pulled):
        assert main(["evaluate", str(run), "--eval-episodes", "3"]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1], "another agent came back"
    assert {"0.monitor.csv", "evaluations.npz", "results.json"} <= {path.name for path in pulled.iterdir()}


def test_states_stay_here_unless_they_are_asked_for(small_run, local):
    for words, kept in (([], False), (["--states"], True)):
        assert main(["push", str(small_run), "-r", REPO, *words]) == 0
        agent = rlsd.SelfDistilled(PPO).load(local.root / REPO / "ppo-CartPole-v1.zip")
        counts = [member.states.count for member in agent.distiller.members.values()]
        assert all((count > 0) is kept for count in counts), counts
        agent.set_env(small_env())
        agent.learn(64)
    PPO.load(local.root / REPO / "ppo-CartPole-v1.zip")


def test_nothing_of_the_machine_is_pushed(small_run, local):
    assert main(["push", str(small_run), "-r", REPO]) == 0
    place = local.root / REPO
    assert {path.name for path in place.iterdir()} == {
        *("README.md", "args.yml", "config.yml", "distill.yml", "env_kwargs.yml", "results.json"),
        *("ppo-CartPole-v1.zip", "train_eval_metrics.zip", "vec_normalize.pkl"),
    }
    card = (place / "README.md").read_text(encoding="utf-8")
    about = yaml.safe_load(card.split("---")[1])
    assert about["library_name"] == "stable-baselines3" and about["model-index"][0]["name"] == "PPO"
    home = str(Path.home())
    for path in place.iterdir():
        if path.suffix in (".yml", ".md", ".json") and home != "/":
            assert home not in path.read_text(encoding="utf-8"), path.name


def test_a_dry_run_needs_no_package_and_pushes_nothing(small_run, monkeypatch, capsys):
    monkeypatch.setitem(extras.EXTRAS, "hub", ("no_such_hub",))
    assert main(["push", str(small_run), "-r", REPO, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "ppo-CartPole-v1.zip" in out and f"Nothing was pushed to {REPO}" in out


@pytest.mark.parametrize("name", ["me", "me/a/b", "me/", "me/a--b", "me/a..b", "-me/a", "me/a.git", "me/" + "a" * 99])
def test_a_name_that_is_none_of_the_hubs_is_refused(name, refused, small_run, local):
    assert "is no name of the Hub: give OWNER/NAME" in refused("push", str(small_run), f"--repo={name}")
    if not name.startswith("-"):
        assert "is no name of the Hub" in refused("pull", name)
    assert not local.root.exists()


def test_what_is_missing_is_told(refused, small_run, monkeypatch, tmp_path):
    assert "give its folder" in refused("push").lower()
    assert "--repo OWNER/NAME" in refused("push", str(small_run))
    assert "there is no run" in refused("push", str(tmp_path / "none"), "-r", REPO)
    assert "which agent?" in refused("pull")
    monkeypatch.setitem(extras.EXTRAS, "hub", ("no_such_hub",))
    for words in (["push", str(small_run), "-r", REPO], ["pull", REPO, "-f", str(tmp_path / "logs")]):
        assert "needs no_such_hub: pip install 'rlsd[hub]'" in refused(*words)
    assert not (tmp_path / "logs").exists()


def test_what_the_hub_refuses_is_one_line_and_leaves_no_folder(refused, local, tmp_path, small_run, monkeypatch):
    logs = str(tmp_path / "logs")
    assert "the Hub has no me/none" in refused("pull", "me/none", "-f", logs)
    (local.root / "me/empty").mkdir(parents=True)
    assert "holds no agent ALGO-ENV.zip" in refused("pull", "me/empty", "-f", logs)
    assert not Path(logs).exists()

    def deny(*_, **__):
        raise HfHubHTTPError("401 Unauthorized", 401)

    monkeypatch.setattr(local, "create_repo", deny)
    assert "hf auth login" in refused("push", str(small_run), "-r", REPO)


def test_curves_of_a_foreign_zip_land_nowhere_else(small_run, local, tmp_path):
    assert main(["push", str(small_run), "-r", REPO]) == 0
    with zipfile.ZipFile(local.root / REPO / hub.METRICS, "a") as metrics:
        metrics.writestr("../../escaped.monitor.csv", "x")
        metrics.writestr("code.py", "x")
    assert main(["pull", REPO, "-f", str(tmp_path / "logs")]) == 0
    names = {path.name for path in tmp_path.rglob("*")}
    assert not names & {"escaped.monitor.csv", "code.py"}


def test_an_agent_that_rl_zoo3_pushed_is_taken(small_run, local, tmp_path):
    """Its args.yml holds Python objects."""
    assert main(["push", str(small_run), "-r", REPO]) == 0
    place = local.root / REPO
    (place / "args.yml").write_text("!!python/object/apply:collections.OrderedDict\n- - - algo\n    - ppo\n")
    (place / "distill.yml").unlink()
    assert main(["pull", REPO, "-f", str(tmp_path / "logs")]) == 0
    assert main(["evaluate", str(tmp_path / "logs" / "ppo" / "CartPole-v1_1"), "--eval-episodes", "1"]) == 0
