"""``rlsd export``."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from safetensors.numpy import load_file
from stable_baselines3 import PPO

from rlsd.cli import export
from rlsd.cli.errors import UserError
from rlsd.cli.main import main


def test_a_run_is_exported_with_its_normalisation(small_run, tmp_path, capsys):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    file = tmp_path / "made" / "agent.onnx"
    assert main(["export", str(small_run), "-o", str(file), "--check", "40"]) == 0
    said = capsys.readouterr().out
    assert "from observation (batch, 4) float32 to action (batch) int64" in said, said
    assert "checked on 40 observations: the same actions" in said, said
    session = runtime.InferenceSession(file)
    assert session.get_modelmeta().custom_metadata_map["environment"] == "CartPole-v1"
    one = session.run(None, {"observation": np.zeros((1, 4), np.float32)})[0]
    assert one.shape == (1,), "a batch of another size"


def test_the_weights_alone_are_written(small_run, tmp_path):
    file = tmp_path / "agent.safetensors"
    assert main(["export", str(small_run), "-o", str(file)]) == 0
    found = load_file(file)
    for name, tensor in PPO.load(small_run / "CartPole-v1.zip", device="cpu").policy.state_dict().items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
    assert found["vecnormalize/observation/mean"].shape == (4,), "what observations are normalised by"


def test_what_acts_otherwise_than_predict_is_not_left(small_run, tmp_path, monkeypatch, refused):
    def differ(*_):
        raise UserError("not exported: ONNX acts otherwise than predict")

    monkeypatch.setattr(export, "need", lambda *_: None)
    monkeypatch.setattr(export, "_write_onnx", lambda graph, given, file, agent: file.write_bytes(b"onnx"))
    monkeypatch.setattr(export, "_difference", differ)
    file = tmp_path / "agent.onnx"
    file.write_bytes(b"older")
    assert "acts otherwise" in refused("export", str(small_run), "-o", str(file), "--check", "8")
    assert file.read_bytes() == b"older" and [path.name for path in tmp_path.iterdir()] == ["agent.onnx"]


def test_without_onnx_it_names_the_extra(small_run, monkeypatch, refused):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else found(name))
    assert "pip install 'rlsd[export]'" in refused("export", str(small_run), "-o", "agent.onnx")


@pytest.mark.parametrize(("words", "hint"), [("-o a.pt", ".onnx or .safetensors"), ("--check 0", "--check")])
def test_wrong_flags_are_one_line(words, hint, small_run, refused):
    assert hint in refused("export", str(small_run), *words.split())
