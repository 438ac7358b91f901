"""Stopped, saved, resumed and trained on: the same as never stopped, to the last bit."""

from __future__ import annotations

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents import (
    ALGORITHMS,
    ALL_ALGORITHMS,
    IMAGE_HWC,
    KINDS,
    N_ENVS,
    N_STEPS,
    ROLLOUT,
    VECTOR,
    TinyEnv,
    build,
    config,
    copied,
    differences,
    distillation_state,
    distilled,
    make_env,
    patches,
    scramble,
    training_state,
)
from gymnasium import spaces
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback, EventCallback, EveryNTimesteps
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

import rlsd
from rlsd.io import folders
from rlsd.observations import as_items

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS.keys())

TOTAL = 6 * ROLLOUT
#: Its strength depends on progress, its teacher lags, its strides straddle updates, its reservoir overflows.
ANSWERS = config(
    strength=rlsd.Schedule(1.0, end=0.1),
    timing=rlsd.EveryStep(stride=3),
    states=rlsd.Reservoir(capacity=40, batch_size=8),
)


class StopAt(BaseCallback):
    """Asks for a stop at some step, as Ctrl-C would."""

    def __init__(self, checkpoints: rlsd.Checkpoints, steps: int) -> None:
        super().__init__()
        self.checkpoints, self.steps = checkpoints, steps

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.steps:
            self.checkpoints.request_stop()
        return True


def stopped(agent: Any, folder: Path, at: int, total: int = TOTAL) -> None:
    """Train until asked to stop."""
    checkpoints = rlsd.Checkpoints(folder, every=10**6)
    with pytest.raises(rlsd.Stopped, match="stopped and saved at"):
        agent.learn(total, callback=[checkpoints, StopAt(checkpoints, at)])


def trained_on(folder: Path, total: int = TOTAL, **arguments: Any) -> Any:
    """Resume, as a new process would, and train to the end."""
    scramble()
    agent = rlsd.resume(folder, **arguments)
    return agent.learn(total - agent.num_timesteps, reset_num_timesteps=False)


def whole_state(agent: Any) -> Any:
    return copied((training_state(agent), distillation_state(agent)))


# --- Exactly as if it had never stopped: the rest of what tests/test_contract.py shows of every algorithm -----


@pytest.mark.parametrize("algorithm", [PPO])
def test_a_gate_remembers_what_it_saw(algorithm: type[BaseAlgorithm], tmp_path: Path) -> None:
    gated = config(strength=rlsd.Constant(1.0, gates=rlsd.ReturnGate(margin=0.0, width=0.1)))
    total, few = 12 * ROLLOUT, {"stats_window_size": 5}
    agent = distilled(algorithm, distill=gated, **few).learn(total)
    assert 0 < agent.distiller.steps < agent.policy.optimizer.state_dict()["state"][0]["step"] * 10 / 12
    expected = whole_state(agent)
    stopped(distilled(algorithm, distill=gated, **few), tmp_path, at=6 * ROLLOUT, total=total)
    assert not differences(expected, whole_state(trained_on(tmp_path, total)))


@pytest.mark.parametrize(("algorithm", "kind"), [(PPO, "normalized"), (A2C, "gsde")])
def test_stopped_twice_is_as_never(algorithm: type[BaseAlgorithm], kind: str, tmp_path: Path) -> None:
    expected = whole_state(distilled(algorithm, kind, distill=ANSWERS).learn(TOTAL))
    stopped(distilled(algorithm, kind, distill=ANSWERS), tmp_path, at=ROLLOUT)
    scramble()
    agent = rlsd.resume(tmp_path)
    checkpoints = rlsd.Checkpoints(tmp_path, every=10**6)
    with pytest.raises(rlsd.Stopped):
        agent.learn(
            TOTAL - agent.num_timesteps,
            callback=[checkpoints, StopAt(checkpoints, 4 * ROLLOUT)],
            reset_num_timesteps=False,
        )
    assert not differences(expected, whole_state(trained_on(tmp_path)))


@pytest.mark.parametrize(("algorithm", "distill"), [(PPO, ANSWERS), (A2C, None)], ids=["on", "off"])
def test_saving_on_the_way_changes_nothing(algorithm: type[BaseAlgorithm], distill: Any, tmp_path: Path) -> None:
    def train(callback: Any) -> Any:
        agent = build(rlsd.SelfDistilled(algorithm), "gsde", distill=distill).learn(TOTAL, callback=callback)
        return copied(training_state(agent))

    assert not differences(train(None), train(rlsd.Checkpoints(tmp_path, every=1)))
    assert len(list(tmp_path.iterdir())) == 3


GREY = spaces.Box(0, 255, (36, 36, 1), np.uint8)
SEEN = {"image": GREY, "images and numbers": spaces.Dict({"image": GREY, "vector": VECTOR}), "colours": IMAGE_HWC}


@pytest.mark.parametrize(
    ("seen", "name", "wrap"),
    [
        *[("image", "PPO", True), ("images and numbers", "RecurrentPPO", True), ("colours", "DQN", True)],
        *[("colours", "PPO", False), ("image", "RecurrentPPO", False), ("images and numbers", "DQN", False)],
    ],
)
def test_images_are_resumed_as_they_lay_in_memory(seen: str, name: str, wrap: bool, tmp_path: Path) -> None:
    """A convolution rounds by where its input's channels lie, which pickle does not keep."""

    def new() -> Any:
        env = DummyVecEnv([lambda: Monitor(TinyEnv(SEEN[seen], spaces.Discrete(3)))] * N_ENVS)
        kind = "dict" if isinstance(SEEN[seen], spaces.Dict) else "image_hwc"
        return (distilled if wrap else build)(ALL_ALGORITHMS[name], kind, env=env)

    total = 4 * ROLLOUT
    agent = new().learn(total)
    expected = copied(training_state(agent))
    stopped(new(), tmp_path, at=2 * ROLLOUT, total=total)
    resumed = rlsd.resume(tmp_path)
    for key, array in as_items(resumed._last_obs).items():
        assert array.strides == as_items(agent._last_obs)[key].strides
    assert not differences(expected, training_state(trained_on(tmp_path, total)))


def test_observations_that_a_view_turned_round_are_saved(tmp_path: Path) -> None:
    agent = distilled().learn(ROLLOUT)
    agent._last_obs = agent._last_obs[:, ::-1]
    again = rlsd.resume(rlsd.save_checkpoint(agent, tmp_path / "here"))
    np.testing.assert_array_equal(again._last_obs, agent._last_obs)


@pytest.mark.parametrize("kind", ["discrete", "normalized"])
def test_a_plain_agent_is_resumed_exactly_too(kind: str, tmp_path: Path) -> None:
    expected = copied(training_state(build(PPO, kind).learn(TOTAL)))
    stopped(build(PPO, kind), tmp_path, at=2 * ROLLOUT)
    agent = trained_on(tmp_path)
    assert type(agent) is PPO
    assert not differences(expected, training_state(agent))


def test_distillation_that_is_off_stays_off(tmp_path: Path) -> None:
    stopped(build(rlsd.SelfDistilled(A2C), distill=None), tmp_path, at=ROLLOUT)
    agent = rlsd.resume(tmp_path)
    assert type(agent) is rlsd.SelfDistilled(A2C)
    assert agent.distiller is None


def test_saved_by_hand_between_two_learns(tmp_path: Path) -> None:
    agent = distilled(distill=ANSWERS).learn(3 * ROLLOUT)
    assert rlsd.save_checkpoint(agent, tmp_path / "here") == tmp_path / "here"
    agent.learn(3 * ROLLOUT, reset_num_timesteps=False)
    expected = whole_state(agent)
    assert not differences(expected, whole_state(trained_on(tmp_path / "here")))


def test_a_schedule_that_is_a_function_is_handed_over_again(tmp_path: Path) -> None:
    answers = config(strength=lambda remaining: remaining)
    expected = whole_state(distilled(distill=answers).learn(TOTAL))
    stopped(distilled(distill=answers), tmp_path, at=3 * ROLLOUT)
    assert not differences(expected, whole_state(trained_on(tmp_path, distill=answers)))


IN_ANOTHER_PROCESS = """
import pickle, sys
import rlsd
from agents import copied, distillation_state, training_state

folder, total = sys.argv[1], int(sys.argv[2])
agent = rlsd.resume(folder)
agent.learn(total - agent.num_timesteps, reset_num_timesteps=False)
pickle.dump(copied((training_state(agent), distillation_state(agent))), open(sys.argv[3], "wb"))
"""


def test_another_process_resumes_exactly(tmp_path: Path) -> None:
    expected = whole_state(distilled(PPO, "normalized", distill=ANSWERS).learn(TOTAL))
    stopped(distilled(PPO, "normalized", distill=ANSWERS), tmp_path / "run", at=2 * ROLLOUT)
    script = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path / "run"), str(TOTAL), str(tmp_path / "state.pkl")]
    paths = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, capture_output=True, text=True, env=paths, check=False)
    assert done.returncode == 0, done.stderr
    assert not differences(expected, pickle.loads((tmp_path / "state.pkl").read_bytes()))


TRAINING = """
import os, pickle, sys
import rlsd
from agents import ALL_ALGORITHMS, copied, distillation_state, distilled, training_state
from stable_baselines3.common.callbacks import BaseCallback
from test_resume import KILLED_ANSWERS

name, kind, folder, total, result = sys.argv[1:]

class Tells(BaseCallback):
    def _on_step(self):
        print(self.num_timesteps, flush=True)
        return True

try:
    agent = rlsd.resume(folder)
except ValueError as error:
    assert "no checkpoint in" in str(error), error
    agent = distilled(ALL_ALGORITHMS[name], kind, KILLED_ANSWERS)
    agent.num_timesteps = 0
callbacks = [rlsd.Checkpoints(folder, every=1, keep=2), Tells()]
agent.learn(int(total) - agent.num_timesteps, callback=callbacks, reset_num_timesteps=agent.num_timesteps == 0)
state = pickle.dumps(copied((training_state(agent), distillation_state(agent))))
with open(result + ".part", "wb") as file:
    file.write(state)
os.replace(result + ".part", result)
"""

KILLED_ANSWERS = config(strength=rlsd.Schedule(1.0, end=0.1), states=rlsd.Reservoir(capacity=4000, batch_size=8))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("PPO", "normalized"), ("SAC", "box")])
def test_killed_at_random_moments_and_resumed_each_time_it_ends_as_if_it_had_never_been(
    name: str, kind: str, tmp_path: Path
) -> None:
    """How often: ``RLSD_KILLS``, 5 when it is not set."""
    kills, total = int(os.environ.get("RLSD_KILLS", "5")), 40 * ROLLOUT
    moments = np.random.default_rng(0)
    paths = {"PYTHONPATH": ":".join([str(Path(__file__).parent), *sys.path]), "OMP_NUM_THREADS": "1"}
    expected = whole_state(distilled(ALL_ALGORITHMS[name], kind, KILLED_ANSWERS).learn(total))
    killed, runs = 0, 0
    while killed < kills or runs == 0:
        folder, result = tmp_path / str(runs), tmp_path / f"{runs}.pkl"
        command = [sys.executable, "-c", TRAINING, name, kind, str(folder), str(total), str(result)]
        while not result.exists():
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=paths)
            assert process.stdout is not None and process.stderr is not None
            # Some way into training, then a little more: in a step, an update, or the middle of a save.
            for _ in range(int(moments.integers(1, 4 * N_STEPS))):
                process.stdout.readline()
            with suppress(subprocess.TimeoutExpired):
                process.wait(float(moments.uniform(0.0, 0.05)) if killed < kills else 120.0)
            if process.poll() is None:
                process.kill()
                killed += 1
            _, errors = process.communicate()
            assert process.returncode in (0, -signal.SIGKILL), errors.decode()
            saved = [int(path.name) for path in folder.glob("[0-9]*")]
            if saved:
                assert rlsd.resume(folder).num_timesteps == max(saved)
        assert not differences(expected, pickle.loads(result.read_bytes()))
        # Two are kept; a third stays when the last kill fell between saving and clearing away.
        assert len(list(folder.iterdir())) in (2, 3), "what was half written is cleared away"
        runs += 1
    assert killed == kills


def monitored_env(folder: Path) -> DummyVecEnv:
    spec = KINDS["discrete"]
    folder.mkdir(parents=True, exist_ok=True)
    names = [str(folder / str(i)) for i in range(N_ENVS)]
    return DummyVecEnv([lambda n=n: Monitor(TinyEnv(spec.observations, spec.actions), n) for n in names])  # type: ignore[misc]


def episodes(folder: Path) -> list[list[tuple[str, str]]]:
    """Return and length of each episode in each Monitor file of a folder."""
    files = sorted(folder.iterdir())
    return [[(row["r"], row["l"]) for row in csv.DictReader(f.read_text().splitlines()[1:])] for f in files]


def test_monitor_files_go_on_where_they_stopped(tmp_path: Path) -> None:
    never = distilled(env=monitored_env(tmp_path / "never"), distill=ANSWERS).learn(TOTAL)
    never.env.close()
    agent = distilled(env=monitored_env(tmp_path / "logs"), distill=ANSWERS)
    stopped(agent, tmp_path / "run", at=2 * ROLLOUT)
    agent.env.close()
    again = trained_on(tmp_path / "run")
    again.env.close()
    assert episodes(tmp_path / "logs") == episodes(tmp_path / "never")
    assert not differences(whole_state(never), whole_state(again))


# --- Which checkpoints there are ------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [True, False])
def test_the_last_few_are_kept(wrap: bool, tmp_path: Path) -> None:
    agent = distilled() if wrap else build(PPO)
    checkpoints = rlsd.Checkpoints(tmp_path / "run", every=ROLLOUT + 1, keep=2)
    agent.learn(9 * ROLLOUT, callback=CallbackList([CallbackList([checkpoints])]))
    # Every second boundary; the end of training is none.
    kept = sorted(int(path.name) for path in (tmp_path / "run").iterdir())
    assert kept == [6 * ROLLOUT, 8 * ROLLOUT]
    assert rlsd.latest_checkpoint(tmp_path / "run") == tmp_path / "run" / str(8 * ROLLOUT)
    assert rlsd.resume(tmp_path / "run").num_timesteps == 8 * ROLLOUT
    assert rlsd.resume(tmp_path / "run" / str(6 * ROLLOUT)).num_timesteps == 6 * ROLLOUT


def test_a_run_that_counts_anew_saves_as_often(tmp_path: Path) -> None:
    agent = distilled()
    agent.learn(6 * ROLLOUT)
    checkpoints = rlsd.Checkpoints(tmp_path, every=2 * ROLLOUT)
    agent.learn(5 * ROLLOUT, callback=checkpoints)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [2 * ROLLOUT, 4 * ROLLOUT]
    agent.learn(5 * ROLLOUT, callback=checkpoints)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [4 * ROLLOUT, 6 * ROLLOUT, 8 * ROLLOUT]
    assert rlsd.resume(tmp_path).num_timesteps == 3 * ROLLOUT, "the latest, though learn() counts anew"


@pytest.mark.parametrize("wrap", [True, False])
def test_learning_in_short_calls_is_saved_as_often_as_learning_at_once(wrap: bool, tmp_path: Path) -> None:
    agent = distilled() if wrap else build(PPO)
    checkpoints = rlsd.Checkpoints(tmp_path, every=3 * ROLLOUT)
    for _ in range(11):
        agent.learn(ROLLOUT, callback=[checkpoints])
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [3 * ROLLOUT, 6 * ROLLOUT, 9 * ROLLOUT]


def test_the_checkpoint_just_written_is_never_the_one_removed(tmp_path: Path) -> None:
    """A folder may still hold the checkpoints of a longer run."""
    distilled().learn(6 * ROLLOUT, callback=rlsd.Checkpoints(tmp_path, every=ROLLOUT, keep=2))
    distilled().learn(2 * ROLLOUT, callback=rlsd.Checkpoints(tmp_path, every=ROLLOUT, keep=2))
    assert (tmp_path / str(ROLLOUT) / "checkpoint.json").is_file()


def test_training_goes_on_after_a_stop_with_the_same_callback(tmp_path: Path) -> None:
    agent = distilled()
    checkpoints = rlsd.Checkpoints(tmp_path, every=10**6)
    with pytest.raises(rlsd.Stopped):
        agent.learn(TOTAL, callback=[checkpoints, StopAt(checkpoints, ROLLOUT)])
    assert patches(agent) == []
    agent.learn(2 * ROLLOUT, callback=checkpoints, reset_num_timesteps=False)
    assert agent.num_timesteps == 3 * ROLLOUT


@pytest.mark.parametrize(("every", "keep"), [(0, 1), (-5, 1), (1, 0)])
def test_intervals_that_make_no_sense_are_refused(every: int, keep: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"must be at least 1, got every={every}, keep={keep}"):
        rlsd.Checkpoints(tmp_path, every=every, keep=keep)


class Forwards(EventCallback):
    """A user's own, whose child hears of every rollout."""

    def _on_rollout_start(self) -> None:
        self.callback.on_rollout_start()


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize(
    ("place", "within"),
    [
        ("EveryNTimesteps", lambda checkpoints: EveryNTimesteps(1, checkpoints)),
        ("EveryNTimesteps", lambda checkpoints: [EveryNTimesteps(1, CallbackList([checkpoints]))]),
        ("EvalCallback", lambda checkpoints: EvalCallback(make_env(), callback_after_eval=checkpoints)),
        ("EvalCallback", lambda checkpoints: EvalCallback(make_env(), callback_on_new_best=checkpoints)),
    ],
)
def test_where_nothing_would_be_saved_is_one_clear_error_before_training(
    place: str, within: Callable[[Any], Any], wrap: bool, tmp_path: Path
) -> None:
    agent = distilled() if wrap else build(PPO)
    with pytest.raises(ValueError, match=rf"^Checkpoints in {place} would save nothing, .* beside {place}"):
        agent.learn(TOTAL, callback=within(rlsd.Checkpoints(tmp_path, every=1)))
    assert agent.num_timesteps == 0
    agent.learn(2 * ROLLOUT, callback=Forwards(rlsd.Checkpoints(tmp_path, every=1)))
    assert rlsd.latest_checkpoint(tmp_path) == tmp_path / str(ROLLOUT)


# --- Nothing is lost ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("broken", ["torch.get_rng_state", "rlsd.environment_state.freeze", "os.fsync", "os.replace"])
def test_a_checkpoint_that_fails_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, error: type[BaseException]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error("disk full")

    agent = distilled().learn(ROLLOUT)
    folder = rlsd.save_checkpoint(agent, tmp_path / "here")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        with pytest.raises(error, match="disk full"):
            rlsd.save_checkpoint(agent, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]
    agent.learn(ROLLOUT, reset_num_timesteps=False)
    rlsd.save_checkpoint(agent, folder)
    assert rlsd.resume(folder).num_timesteps == 2 * ROLLOUT
    assert list(tmp_path.iterdir()) == [folder]


def test_an_unfinished_checkpoint_is_not_taken_for_one(tmp_path: Path) -> None:
    for steps in (1, 2):
        agent = distilled().learn(steps * ROLLOUT)
        rlsd.save_checkpoint(agent, tmp_path / str(agent.num_timesteps))
    (tmp_path / str(10**6)).mkdir()
    (tmp_path / ".99-abc").mkdir()
    (tmp_path / "notes").mkdir()
    assert rlsd.latest_checkpoint(tmp_path) == tmp_path / str(2 * ROLLOUT)


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    for name in (".99-abc", ".16-x_y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "replay_buffer.pkl").write_bytes(b"half")
    (tmp_path / ".git").mkdir()
    (tmp_path / "notes").mkdir()
    distilled().learn(2 * ROLLOUT, callback=rlsd.Checkpoints(tmp_path, every=ROLLOUT))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", str(ROLLOUT), "notes"]


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_no_checkpoint_is_one_clear_error(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for load in (rlsd.resume, rlsd.latest_checkpoint):
        with pytest.raises(ValueError, match=f"no checkpoint in .*{folder}"):
            load(tmp_path / folder)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _changed(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize("file", ["agent.zip", "environment.pkl", "generators.json", "checkpoint.json"])
@pytest.mark.parametrize("damage", [_truncated, lambda path: path.write_bytes(b"")], ids=["truncated", "empty"])
def test_a_damaged_file_is_one_clear_error(file: str, damage: Callable[[Path], Any], tmp_path: Path) -> None:
    folder = rlsd.save_checkpoint(distilled().learn(ROLLOUT), tmp_path / "here")
    damage(folder / file)
    with pytest.raises(ValueError, match="damaged") as caught:
        rlsd.resume(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["agent.zip", "environment.pkl", "generators.json"])
def test_a_missing_file_is_one_clear_error(file: str, tmp_path: Path) -> None:
    folder = rlsd.save_checkpoint(distilled().learn(ROLLOUT), tmp_path / "here")
    (folder / file).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=file):
        rlsd.resume(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_changed(algorithm="nowhere:Nothing"), "cannot be imported"),
        (_changed(algorithm="pathlib:Path"), "is no SB3 algorithm"),
        (_changed(algorithm="stable_baselines3.a2c.a2c:A2C"), "holds an agent of PPO, not of A2C"),
        (_changed(algorithm=3), "algorithm"),
        (lambda path: path.write_text("[]"), "is damaged"),
        (lambda path: path.write_text("{}"), "is damaged: keys are missing"),
    ],
)
def test_a_summary_that_is_wrong_is_one_clear_error(
    damage: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    folder = rlsd.save_checkpoint(distilled().learn(ROLLOUT), tmp_path / "here")
    damage(folder / "checkpoint.json")
    folders.seal(folder)  # written so, not damaged later
    with pytest.raises(ValueError, match=message):
        rlsd.resume(folder)


# --- Environments that cannot be saved, and others ------------------------------------------------


@pytest.fixture
def workers() -> Iterator[Callable[[], SubprocVecEnv]]:
    made = []
    spec = KINDS["discrete"]

    def make() -> SubprocVecEnv:
        envs = [lambda: Monitor(TinyEnv(spec.observations, spec.actions))] * N_ENVS
        made.append(SubprocVecEnv(envs, start_method="forkserver"))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for env in made:
        env.close()


def test_worker_processes_are_said_not_to_be_saved_and_another_environment_is_taken(
    workers: Callable[[], SubprocVecEnv], tmp_path: Path
) -> None:
    stopped(distilled(env=workers()), tmp_path, at=2 * ROLLOUT)
    summary = json.loads((rlsd.latest_checkpoint(tmp_path) / "checkpoint.json").read_text())
    assert "worker processes (SubprocVecEnv)" in summary["not_exact"]
    with pytest.raises(ValueError, match=r"worker processes \(SubprocVecEnv\).*Pass env="):
        rlsd.resume(tmp_path)
    agent = trained_on(tmp_path, env=make_env())
    assert agent.num_timesteps == TOTAL
    assert agent.distiller.states.seen == TOTAL


def test_an_environment_of_ones_own_replaces_the_saved_one(tmp_path: Path) -> None:
    stopped(distilled(PPO, "normalized"), tmp_path, at=2 * ROLLOUT)
    env = make_env("normalized")
    agent = rlsd.resume(tmp_path, env=env)
    assert agent.get_env() is env
    assert isinstance(env, VecNormalize)
    agent.learn(3 * ROLLOUT, reset_num_timesteps=False)
    assert agent.distiller.deposits > 0


@pytest.mark.parametrize(
    ("name", "kind", "wrap", "n_envs"),
    [
        *[("PPO", "normalized", True, 1), ("PPO", "normalized", False, 3), ("A2C", "gsde", True, 3)],
        *[("RecurrentPPO", "box", True, 1), ("RecurrentPPO", "box", False, 3), ("ARS", "discrete", True, 1)],
        ("ARS", "discrete", False, 3),
    ],
)
def test_more_or_fewer_environments_replace_the_saved_ones(
    name: str, kind: str, wrap: bool, n_envs: int, tmp_path: Path
) -> None:
    agent = (distilled if wrap else build)(ALL_ALGORITHMS[name], kind).learn(2 * ROLLOUT)
    env = make_env(kind, n_envs=n_envs)
    again = rlsd.resume(rlsd.save_checkpoint(agent, tmp_path / "here"), env=env)
    assert again.get_env() is env
    assert not differences(agent.policy.state_dict(), again.policy.state_dict())
    again.learn(3 * ROLLOUT, reset_num_timesteps=False)
    assert again.num_timesteps >= agent.num_timesteps + 3 * ROLLOUT
    assert not wrap or again.distiller.deposits > agent.distiller.deposits


@pytest.mark.parametrize("kind", ["box", "box_goal"])
def test_another_number_of_environments_than_the_replay_buffers_is_one_clear_error(kind: str, tmp_path: Path) -> None:
    stopped(distilled(SAC, kind), tmp_path, at=2 * ROLLOUT)
    with pytest.raises(ValueError, match=r"^env has 3 environments, .* is of 2: give 2, or load.*agent\.zip"):
        rlsd.resume(tmp_path, env=make_env(kind, n_envs=3))
    assert rlsd.resume(tmp_path, env=make_env(kind)).learn(ROLLOUT, reset_num_timesteps=False)


def test_an_environment_with_other_spaces_is_one_clear_error(tmp_path: Path) -> None:
    stopped(distilled(), tmp_path, at=ROLLOUT)
    with pytest.raises(ValueError, match=r"[Oo]bservation spaces do not match"):
        rlsd.resume(tmp_path, env=make_env("discrete_observations"))


def test_an_agent_without_an_environment_is_saved(tmp_path: Path) -> None:
    distilled().save(tmp_path / "agent")
    agent = rlsd.SelfDistilled(PPO).load(tmp_path / "agent")
    again = rlsd.resume(rlsd.save_checkpoint(agent, tmp_path / "here"))
    assert again.get_env() is None
