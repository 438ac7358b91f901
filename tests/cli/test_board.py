"""What TensorBoard shows of a run of ``rlsd train``, read as TensorBoard reads it."""

import re
from types import SimpleNamespace

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from rlsd.cli import board
from rlsd.cli.main import main
from rlsd.cli.runfolder import RunFolder


def read(folder):
    return EventAccumulator(str(folder), {"tensors": 0, "scalars": 0}).Reload()


@pytest.fixture
def shown(small_run):
    (folder,) = (small_run / "tensorboard").iterdir()
    assert folder.name == "PPO-remember+guard-seed0_1", "the run's name says neither recipe nor seed"
    return read(folder)


def test_the_boards_begin_with_learning_and_name_curves_that_are_there(shown):
    layout = layout_pb2.Layout.FromString(shown.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == list(board.BOARDS), "the boards"
    first = layout.category[0].chart[0]
    assert list(first.multiline.tag) == ["rollout/ep_rew_mean$", "eval/mean_reward$"], "returns first"
    there = set(shown.Tags()["scalars"])
    always = {"rollout/ep_rew_mean", "eval/mean_reward", "time/distill_fraction"}
    always |= {f"distill/{name}/{key}" for name in ("remember", "guard") for key in ("coef", "states")}
    assert always <= there, "curves of a run that is idle"


def test_settings_are_there_as_text(shown):
    (distillation,) = shown.Tensors("settings/distillation/text_summary")
    assert b"    teacher:\n" in distillation.tensor_proto.string_val[0]
    (hyperparameters,) = shown.Tensors("settings/hyperparameters/text_summary")
    assert b"n_steps: 64" in hyperparameters.tensor_proto.string_val[0]


def test_hparams_has_what_decides_the_run_and_what_it_reached(shown, small_run):
    metadata = shown.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(metadata).session_start_info.hparams
    assert settings["recipe"].string_value == "remember+guard" and settings["seed"].number_value == 0
    assert settings["guard.strength.value"].number_value == 1
    (final,) = shown.Scalars(board.FINAL)
    results = RunFolder(small_run, "CartPole-v1").read_results()
    assert final.value == pytest.approx(results["mean_reward"]) and final.step == results["timesteps"]


def test_marks_say_when_something_changed_and_end_before_they_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(board, "_MOST", 3)
    output = TensorBoardOutputFormat(str(tmp_path))
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8)
    agent.set_logger(Logger(None, [output]))
    agent.distiller = SimpleNamespace(figures={})
    marks = board.Marks()
    marks.init_callback(agent)
    for step, (snapshots, coefficient) in enumerate([(0, 0.0), (1, 0.0), (1, 0.5), (2, 0.0), (3, 0.0), (4, 0.0)]):
        agent.num_timesteps = step
        agent.distiller.figures = {"distill/snapshots": snapshots, "distill/coef": coefficient}
        marks.on_rollout_start()
    output.close()
    found = [
        (one.step, one.tensor_proto.string_val[0].decode()) for one in read(tmp_path).Tensors("marks/text_summary")
    ]
    taken = board._MARKS["snapshots"]
    assert found == [(1, taken), (2, "the penalty set in"), (3, taken), (3, "the penalty ended"), (4, taken)]


def test_each_of_several_distillations_has_its_curves_and_marks(tmp_path):
    output = TensorBoardOutputFormat(str(tmp_path))
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8)
    agent.set_logger(Logger(None, [output]))
    agent.distiller = SimpleNamespace(figures={"distill/guard/snapshots": 1.0, "distill/guard/coef": 0.0})
    marks = board.Marks()
    marks.init_callback(agent)
    marks.on_rollout_start()
    output.close()
    (mark,) = read(tmp_path).Tensors("marks/text_summary")
    assert mark.tensor_proto.string_val[0].decode() == f"guard: {board._MARKS['snapshots']}"
    pattern = board._of_each("distill/kl")
    assert re.match(pattern, "distill/guard/kl") and re.match(pattern, "distill/kl")
    assert not re.match(pattern, "distill/kl_of_something")


def test_an_older_run_keeps_its_name_when_it_is_resumed(tmp_path):
    (tmp_path / "PPO_1").mkdir()
    plan = SimpleNamespace(algorithm=PPO, distill=None, recipe="plain SB3", seed=3)
    assert board.run_name(plan, str(tmp_path), anew=False) == "PPO"
    assert board.run_name(plan, str(tmp_path), anew=True) == "PPO-plain-seed3"
    assert board.run_name(plan, None, anew=True) == "PPO-plain-seed3"


def test_the_file_that_distils_is_named(tmp_path, capsys):
    (tmp_path / "mine.yml").write_text("teacher: {type: snapshot, every: 64}\n", encoding="utf-8")
    words = ["--env", "CartPole-v1", "-n", "64", "--n-envs", "2", "--no-progress", "-f", str(tmp_path / "logs")]
    params = ["--eval-freq", "0", "-params", "n_steps:32", "batch_size:32"]
    assert main(["train", *words, "--config", str(tmp_path / "mine.yml"), *params]) == 0
    assert f"self-distillation ({tmp_path / 'mine.yml'})" in capsys.readouterr().out
    assert [path.name for path in tmp_path.glob("logs/ppo/*/tensorboard/*")] == ["PPO-mine-seed0_1"]
