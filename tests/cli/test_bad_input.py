"""Wrong input: exit code 2, one clear line on stderr, and nothing written."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import A2C, PPO

from rlsd.cli.main import main

CARTPOLE = "--env CartPole-v1 -n 64 --no-progress"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files to be given to flags."""
    folder = tmp_path_factory.mktemp("files")
    A2C("MlpPolicy", "CartPole-v1", device="cpu").save(folder / "a2c.zip")
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(folder / "whole.zip")
    PPO("MlpPolicy", "Pendulum-v1", device="cpu").save(folder / "pendulum.zip")
    data = (folder / "whole.zip").read_bytes()
    (folder / "cut.zip").write_bytes(data[: len(data) // 2])
    (folder / "broken.zip").write_bytes(data[:2000] + bytes(500) + data[2500:])
    (folder / "words.zip").write_text("no zip at all")
    (folder / "bad.yml").write_text("{a: [")
    (folder / "unknown.yml").write_text("techer: {}")
    (folder / "list.yml").write_text("- 1")
    (folder / "a_file").touch()
    return folder


WRONG = {
    "unknown env": ("--env CartPol-v1", ["CartPol-v1", "CartPole-v1"]),
    "unknown namespace": ("--env Nowhere/Bar-v1", ["Nowhere/Bar-v1"]),
    "module that is not there": ("--env nowhere:Bar-v1 --recipe snapshat", ["'nowhere'", "'nowhere:Bar-v1'", "module"]),
    "unknown answer beside an unknown env": ("--env CartPol-v1 --distill strength=wave", ["unknown strength 'wave'"]),
    "unknown algorithm": (f"{CARTPOLE} --algo ppoo", ["ppoo", "did you mean ppo"]),
    "one distillation twice": (f"{CARTPOLE} --recipe guard+guard", ["'guard'", "twice", "leave one out"]),
    "an unknown one of several": (f"{CARTPOLE} --recipe guard+snapshat", ["snapshat", "snapshot"]),
    "a change that names none of several": (
        f"{CARTPOLE} --recipe guard+snapshot --distill teacher.every=1",
        ["'teacher.every'", "begin it with guard. or snapshot."],
    ),
    "two that train beside": (f"{CARTPOLE} --recipe phasic+reborn", ["phasic", "reborn", "leave out one"]),
    "unknown recipe": (f"{CARTPOLE} --recipe snapshat", ["snapshat", "snapshot"]),
    "unknown key": (f"{CARTPOLE} --distill techer.every=3", ["techer.every", "remember. or guard."]),
    "unknown field": (f"{CARTPOLE} --distill guard.teacher.evry=3", ["evry", "every"]),
    "negative interval": (f"{CARTPOLE} --distill guard.teacher.every=-3", ["teacher.every", "-3"]),
    "negative strength": (f"{CARTPOLE} --distill strength.value=-1", ["strength.value", "-1"]),
    "capacity below batch": (f"{CARTPOLE} --distill states.capacity=8", ["capacity", "batch_size", "8"]),
    "best by evaluations that do not take place": (
        f"{CARTPOLE} --recipe best --distill teacher.by=evaluation --eval-freq 0",
        ["teacher.by 'evaluation'", "--eval-freq"],
    ),
    "unknown hyperparameter": (f"{CARTPOLE} -params n_step:4", ["n_step", "n_steps"]),
    "infinite hyperparameter": (f"{CARTPOLE} -params learning_rate:.inf", ["learning_rate must be a number", "inf"]),
    "negative hyperparameter": (f"{CARTPOLE} -params n_steps:-4", ["n_steps", "-4"]),
    "hyperparameter of a wrong type": (f"{CARTPOLE} -params n_steps:abc", ["n_steps", "abc"]),
    "impossible hyperparameters": (f"{CARTPOLE} -params batch_size:1", ["batch_size"]),
    "code": (f"{CARTPOLE} -params policy_kwargs:dict(net_arch=open('x'))", ["open"]),
    "unknown policy": (f"{CARTPOLE} -params policy:Nope", ["Nope"]),
    "no pair": (f"{CARTPOLE} -params gamma", ["gamma", "key:value"]),
    "negative save interval": (f"{CARTPOLE} --save-freq -1", ["--save-freq", "-1"]),
    "negative steps": (f"{CARTPOLE} -n -1", ["--n-timesteps", "-1"]),
    "more threads than cores": (f"{CARTPOLE} --num-threads 100000", ["--num-threads must be", "cores", "100000"]),
    "more copies than memory": (f"{CARTPOLE} --n-envs 1000000000", ["n_envs 1000000000", "1.0 TB", "fewer"]),
    "more copies than memory, as a hyperparameter": (f"{CARTPOLE} -params n_envs:1e9", ["n_envs 1000000000"]),
    "unknown flag": (f"{CARTPOLE} --sede 3", ["--sede", "--seed"]),
    "unknown device": (f"{CARTPOLE} --device tpu9", ["tpu9", "cpu"]),
    "device that is not here": (f"{CARTPOLE} --device cuda:63", ["cuda:63", "cpu"]),
    "rollout device that is not here": (f"{CARTPOLE} --rollout-device gpu0", ["--rollout-device", "gpu0", "cpu"]),
    "unknown speed": (f"{CARTPOLE} --speed fast", ["--speed", "unknown --speed 'fast'; known: exact, max, none"]),
    "unknown backend": (f"{CARTPOLE} --vec-env dumy", ["dumy", "dummy"]),
    "unknown env argument": (f"{CARTPOLE} --env-kwargs colour:red", ["colour", "CartPole-v1"]),
    "no zip": (f"{CARTPOLE} -i FILES/nope.zip", ["nope.zip", "no such file"]),
    "truncated zip": (f"{CARTPOLE} -i FILES/cut.zip", ["cut.zip"]),
    "damaged zip": (f"{CARTPOLE} -i FILES/broken.zip", ["broken.zip"]),
    "not a zip": (f"{CARTPOLE} -i FILES/words.zip", ["words.zip"]),
    "zip of another algorithm": (f"{CARTPOLE} -i FILES/a2c.zip", ["a2c.zip", "A2C", "PPO"]),
    "zip for other spaces": (f"{CARTPOLE} -i FILES/pendulum.zip", ["pendulum.zip", "Spaces"]),
    "no config": (f"{CARTPOLE} --config FILES/nope.yml", ["nope.yml"]),
    "bad YAML": (f"{CARTPOLE} --config FILES/bad.yml", ["bad.yml", "YAML"]),
    "unknown key in YAML": (f"{CARTPOLE} --config FILES/unknown.yml", ["techer", "teacher"]),
    "YAML that is no mapping": (f"{CARTPOLE} --config FILES/list.yml", ["list.yml", "mapping"]),
    "unwritable log folder": (f"{CARTPOLE} -f FILES/a_file/logs", ["a_file", "log folder"]),
    "unwritable TensorBoard folder": (f"{CARTPOLE} -tb FILES/a_file", ["a_file", "TensorBoard", "-tb"]),
    "no run": ("--resume nowhere_1", ["nowhere_1", "no run"]),
    "not a run": ("--resume FILES", ["not the folder of a run"]),
    "baseline with a recipe": (f"{CARTPOLE} --baseline --recipe snapshot", ["--baseline", "--recipe"]),
    "algorithm that cannot": ("--env rlsd-test/Tuple-v0 -n 64", ["rlsd-test/Tuple-v0"]),
}


class TupleEnv(gym.Env):
    """Observes what SB3 cannot handle."""

    observation_space = gym.spaces.Tuple([gym.spaces.Discrete(2)])
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return (np.int64(0),), {}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(case, files, tmp_path, capsys):
    if "rlsd-test/Tuple-v0" not in gym.registry:
        gym.register("rlsd-test/Tuple-v0", TupleEnv)
    words, hints = WRONG[case]
    argv = words.replace("FILES", str(files)).split()
    if "-f" not in argv:
        argv += ["-f", str(tmp_path / "logs")]
    before = sorted(files.rglob("*"))
    assert main(["train", *argv]) == 2, "exit code"
    err = capsys.readouterr().err
    assert err.startswith("error: "), f"not an error line: {err}"
    assert err.count("\n") == 1, f"more than one line: {err}"
    assert "Traceback" not in err, "a traceback"
    for hint in hints:
        assert hint in err, f"{hint!r} is not in: {err}"
    assert not (tmp_path / "logs").exists(), "something was made in the log folder"
    assert sorted(files.rglob("*")) == before, "something was made beside the input"


def test_other_runs_stay_when_a_new_one_fails(files, tmp_path, capsys):
    other = tmp_path / "logs" / "ppo" / "CartPole-v1_1" / "kept"
    other.parent.mkdir(parents=True)
    other.touch()
    assert main(["train", *CARTPOLE.split(), "-f", str(tmp_path / "logs"), "-i", str(files / "a2c.zip")]) == 2, "code"
    assert [path.name for path in other.parents[1].iterdir()] == ["CartPole-v1_1"], "the failed run left a folder"
    assert other.exists(), "another run lost a file"


@pytest.mark.parametrize(("algo", "env", "others"), [("sac", "CartPole-v1", "dqn"), ("dqn", "Pendulum-v1", "sac")])
def test_an_algorithm_for_other_actions_names_those_that_do(algo, env, others, refused, tmp_path):
    said = refused("train", "--env", env, "--algo", algo, "-n", "64", "-f", str(tmp_path / "logs"))
    assert f"{algo} is for actions of a" in said and others in said.partition("use --algo")[2]
    assert not (tmp_path / "logs").exists()
