"""Learning curves are what the files of training say."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from rlsd.cli.curves import evaluation_curve, find_runs, training_curve
from rlsd.cli.errors import UserError


def test_a_training_curve_is_the_mean_of_the_latest_episodes(small_run):
    (run,) = find_runs([str(small_run)])
    with run.folder.monitor.open() as lines:
        next(lines)
        rows = list(csv.DictReader(lines))
    returns = np.array([float(row["r"]) for row in rows])
    curve = training_curve(run, "return", 3)
    np.testing.assert_allclose(curve.values[:2], [returns[0], returns[:2].mean()])
    np.testing.assert_allclose(curve.values[2:], [returns[i - 2 : i + 1].mean() for i in range(2, len(returns))])
    assert curve.over("steps").tolist() == [float(row["step"]) for row in rows], "steps"
    assert curve.over("episodes").tolist() == list(range(1, len(rows) + 1)), "episodes"
    assert (np.diff(curve.over("time")) >= 0).all() and curve.over("time")[0] == 0, "time"
    np.testing.assert_array_equal(training_curve(run, "length", 1).values, [float(row["l"]) for row in rows])


def test_sb3s_own_files_one_for_each_environment_are_put_together_in_time(tmp_path):
    (tmp_path / "CartPole-v1").mkdir()
    (tmp_path / "CartPole-v1" / "args.yml").write_text("!!python/object/apply:collections.OrderedDict []")
    for number, rows in enumerate(["1.0,10,2.0\n3.0,30,9.0\n", "2.0,20,4.0\n4.0,4"]):
        text = f'#{{"t_start": 100.0, "env_id": "CartPole-v1"}}\nr,l,t\n{rows}'
        (tmp_path / f"{number}.monitor.csv").write_text(text)
    (run,) = find_runs([str(tmp_path)])
    curve = training_curve(run, "return", 1)
    assert curve.values.tolist() == [1.0, 2.0, 3.0], "the line that is being written is left out"
    assert curve.steps.tolist() == [10.0, 30.0, 60.0], "steps of all copies together"
    assert curve.seconds.tolist() == [0.0, 2.0, 7.0], "since the first"


def test_an_evaluation_curve_has_the_means_and_the_times(small_run):
    (run,) = find_runs([str(small_run)])
    curve = evaluation_curve(run, "return")
    with np.load(small_run / "evaluations.npz") as found:
        np.testing.assert_array_equal(curve.values, found["results"].mean(axis=1))
    assert curve.steps.tolist() == [128.0, 256.0] and np.isfinite(curve.seconds).all()


def test_runs_of_the_same_kind_share_a_label_and_others_do_not(small_run, tmp_path):
    for number, change in enumerate(["seed: 1", "recipe: best", "baseline: true"]):
        copy = tmp_path / "ppo" / f"CartPole-v1_{number}"
        shutil.copytree(small_run, copy, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
        with (copy / "CartPole-v1" / "args.yml").open("a") as file:
            file.write(f"{change}\n")
    labels = [run.label for run in find_runs([str(small_run), str(tmp_path)])]
    assert labels[0] == labels[1] and len(set(labels)) == 3, labels
    assert "best" in labels[2] and "plain SB3" in labels[3], labels


def test_a_comparison_is_read_by_variants(small_run, tmp_path):
    for variant in ("baseline", "slow"):
        for seed in (0, 1):
            run = tmp_path / variant / f"seed_{seed}" / "ppo" / "CartPole-v1_1"
            shutil.copytree(small_run, run, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    results = tmp_path / "compare.json"
    results.write_text(json.dumps({"settings": {"log_folder": str(tmp_path)}, "results": []}))
    runs = find_runs([str(results)])
    assert [run.label for run in runs] == ["baseline", "baseline", "slow", "slow"]
    assert find_runs([str(tmp_path)]) == runs, "by its folder"


def test_what_holds_no_runs_is_said(tmp_path):
    (tmp_path / "list.json").write_text("[1]")
    for place, hint in (
        ("nowhere", "no run 'nowhere'"),
        (tmp_path, "not the folder of a run"),
        (tmp_path / "list.json", "compare"),
    ):
        with pytest.raises(UserError, match=hint):
            find_runs([str(place)])
