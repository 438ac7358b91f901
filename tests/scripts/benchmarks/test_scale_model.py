"""The prediction adds up what is done one after the other, and shares what is done at once."""

from __future__ import annotations

import pytest
from benchmarks.scale_model import Parts, predict

TIMES = {"collect": 1.0, "busy": 0.1, "play": 0.001, "play_env": 0.0001, "train": 1e-5, "message": 0.002, "asked": 0.01}
PARTS = Parts(**TIMES, fragment_bytes=1, weight_bytes=1)


def test_workers_wait_at_once_and_the_learner_does_the_rest_for_all_of_them():
    one, eight = (predict(PARTS, n, 4, 100, cpus=8) for n in (1, 8))
    assert one == pytest.approx({"collect": 1.0, "messages": 0.012, "play": 0.14, "train": 0.004})
    assert eight == pytest.approx({"collect": 1.0, "messages": 0.026, "play": 0.42, "train": 0.032})


def test_too_many_workers_wait_for_a_cpu():
    assert predict(PARTS, 40, 4, 100, cpus=2)["collect"] == pytest.approx(2.0)
