"""The group "at a glance" and the probe states: what is shown, when, and that training does not notice."""

import re

import pytest
import torch
from helpers import small_agent
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rlsd
from rlsd.cli import board, glance
from rlsd.cli.main import main
from rlsd.io.resume import notes_of

PULLING = {"teacher.every": 64}


def watched(agent, folder, steps=512, learn=None, **settings):
    """Let an agent learn under a Glance; return what TensorBoard reads, and the callback."""
    output = TensorBoardOutputFormat(str(folder))
    agent.set_logger(Logger(None, [output]))
    callback = glance.Glance(steps, **settings)
    agent.learn(learn or steps, callback=callback)
    output.close()
    return EventAccumulator(str(folder), {"scalars": 0, "images": 0, "histograms": 0}).Reload(), callback


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(glance, "POINT_STEPS", 64)
    monkeypatch.setattr(glance, "PICTURE_STEPS", 128)


def new_agent(**more):
    distill = rlsd.recipe("snapshot", **PULLING)
    arguments = {"n_steps": 64, "batch_size": 32, "seed": 0, "distill": distill} | more
    return rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", **arguments)


def test_returns_of_both_and_their_difference_are_shown(tmp_path, often):
    shown, _ = watched(new_agent(), tmp_path)
    (student, teacher, apart) = (
        {point.step: point.value for point in shown.Scalars(f"at a glance/{name}")}
        for name in ("return of the student", "return of the teacher", "teacher minus student")
    )
    assert len(student) > 3 and len(teacher) > 2 and apart.keys() == teacher.keys()
    for step, value in apart.items():
        assert value == pytest.approx(teacher[step] - student[step], rel=1e-4, abs=1e-4)
    kl = [point.value for point in shown.Scalars("at a glance/what both do, KL")]
    assert kl and all(value >= 0 for value in kl) and max(kl) > 0


def test_the_group_is_the_first_of_all_that_are_logged(tmp_path, often):
    shown, _ = watched(new_agent(), tmp_path)
    assert min(shown.Tags()["scalars"]) == "at a glance/return of the student"


def test_histograms_and_a_picture_are_written_when_a_teacher_is_taken_and_seldom(tmp_path, often):
    shown, _ = watched(new_agent(), tmp_path)
    pictures = shown.Images("at a glance/what both do")
    steps = [picture.step for picture in pictures]
    assert 2 <= len(steps) <= 4 and all(b - a >= 128 for a, b in zip(steps, steps[1:], strict=False)), steps
    assert pictures[0].encoded_image_string.startswith(b"\x89PNG")
    names = {"KL", "action probabilities, teacher", "action probabilities, student"}
    assert set(shown.Tags()["histograms"]) == {f"probe states/{name}" for name in names}
    assert [one.step for one in shown.Histograms("probe states/KL")] == steps


def test_a_picture_shows_both_before_the_next_teacher_is_taken(tmp_path, often):
    # A teacher that was just taken equals its student: the picture would show one thing twice.
    shown, _ = watched(new_agent(learning_rate=0.03), tmp_path)
    assert max(one.histogram_value.max for one in shown.Histograms("probe states/KL")) > 1e-3


def test_training_does_not_notice(tmp_path, often):
    watching = new_agent()
    watched(watching, tmp_path)
    alone = new_agent().learn(512)
    for a, b in zip(watching.policy.parameters(), alone.policy.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["SAC", "TD3", "DQN", "A2C"])
def test_every_kind_of_action_is_shown(name, tmp_path, often):
    agent = small_agent(name, wrap=rlsd.SelfDistilled, distill=rlsd.recipe("snapshot", **{"teacher.every": 16}))
    shown, _ = watched(agent, tmp_path, steps=100)
    assert shown.Images("at a glance/what both do") and shown.Histograms("probe states/KL")


def test_plain_sb3_shows_its_return_alone(tmp_path, often):
    shown, _ = watched(PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, seed=0), tmp_path)
    tags = shown.Tags()
    assert [tag for tag in tags["scalars"] if tag.startswith("at a glance")] == ["at a glance/return of the student"]
    assert not tags["images"] and not tags["histograms"]


def test_a_teacher_from_outside_has_no_return_that_is_known(tmp_path, often):
    teacher = PPO("MlpPolicy", "CartPole-v1", n_steps=64, seed=1)
    shown, _ = watched(new_agent(distill=rlsd.recipe("kickstart", teacher=teacher)), tmp_path)
    assert "at a glance/return of the teacher" not in shown.Tags()["scalars"]
    assert shown.Scalars("at a glance/what both do, KL")


def test_each_of_several_distillations_is_shown(tmp_path, often):
    agent = new_agent(distill="snapshot+guard")
    agent.distiller.members["snapshot"].teacher.every = agent.distiller.members["guard"].teacher.every = 64
    shown, _ = watched(agent, tmp_path)
    tags = shown.Tags()["scalars"]
    assert {"at a glance/what both do, KL (snapshot)", "at a glance/what both do, KL (guard)"} <= {*tags}
    assert min(tags) == "at a glance/return of the student", "it comes first"
    pattern = board._of_each("at a glance/return of the teacher")
    assert len([tag for tag in tags if re.match(pattern, tag)]) == 2, "both are on the board"


def test_what_the_teacher_earned_is_still_known_after_a_resume(tmp_path):
    words = ["train", "--env", "CartPole-v1", "--n-envs", "2", "--no-progress", "--eval-freq", "0"]
    params = ["-params", "n_steps:32", "batch_size:32", "--recipe", "retain", "--eval-episodes", "0"]
    assert main([*words, "-n", "256", "-f", str(tmp_path), *params]) == 0
    run = tmp_path / "ppo" / "CartPole-v1_1"
    notes = notes_of(rlsd.latest_checkpoint(run / "checkpoints"))["glance"]
    ((version, earned),) = notes.values()
    assert version == 1 and earned > 0
    callback = glance.Glance(256, notes)
    assert callback.notes() == notes
