"""Where runs lie."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from rlsd.cli.errors import UserError
from rlsd.cli.runfolder import RunFolder, check_writable


def test_runs_are_numbered_on_from_the_last(tmp_path):
    assert RunFolder.create(tmp_path, "ppo", "CartPole-v1").root == tmp_path / "ppo" / "CartPole-v1_1", "first"
    (tmp_path / "ppo" / "CartPole-v1_7").mkdir()
    assert RunFolder.create(tmp_path, "ppo", "CartPole-v1").root.name == "CartPole-v1_8", "next"
    assert RunFolder.create(tmp_path, "ppo", "CartPole-v0").root.name == "CartPole-v0_1", "each env counts for itself"


def test_runs_that_start_together_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: RunFolder.create(tmp_path, "ppo", "A-v0").root, range(16)))
    assert len(set(folders)) == 16, "two runs share a folder"


def test_a_slash_in_the_id_makes_no_folder(tmp_path):
    folder = RunFolder.create(tmp_path, "ppo", "ALE/Pong-v5")
    assert folder.root == tmp_path / "ppo" / "ALE-Pong-v5_1", "rl_zoo3 writes a dash"
    assert folder.final_agent.name == "ALE-Pong-v5.zip", "agent"


def test_discarding_leaves_nothing_behind_and_nothing_else_out(tmp_path):
    RunFolder.create(tmp_path / "logs", "ppo", "A-v0").discard()
    assert not (tmp_path / "logs").exists(), "an empty log folder stayed"
    kept = RunFolder.create(tmp_path / "logs", "ppo", "A-v0")
    RunFolder.create(tmp_path / "logs", "ppo", "A-v0").discard()
    assert kept.root.exists(), "another run was removed"


@pytest.mark.parametrize("before", ["", "logs", "logs/ppo", "logs/deep"])
def test_discarding_leaves_a_folder_that_was_there_before(tmp_path, before):
    (tmp_path / before).mkdir(parents=True, exist_ok=True)
    logs = tmp_path / ("logs/deep/er" if before == "logs/deep" else "logs")
    there = sorted(tmp_path.rglob("*"))
    RunFolder.create(logs, "ppo", "A-v0").discard()
    assert sorted(tmp_path.rglob("*")) == there, "it is not as it was"


@pytest.mark.parametrize("id", ["my_module:My-v0", "a.b:ns/My-v0", 'a<b>c"d|e?f*-v0', "back\\slash-v0"])
def test_no_name_that_a_file_system_refuses(tmp_path, id):
    folder = RunFolder.create(tmp_path, "ppo", id)
    names = [path.name for path in (folder.root, folder.params, folder.final_agent)]
    assert not set('<>:"/\\|?*') & set("".join(names)), names


def test_a_run_is_found_by_path_below_the_logs_and_by_number(tmp_path):
    made = RunFolder.create(tmp_path, "ppo", "A-v0")
    made.write_yaml("args.yml", {})
    for run in (str(made.root), "ppo/A-v0_1", "1"):
        assert RunFolder.find(run, tmp_path, "ppo", "A-v0") == made, f"not found by {run}"
    with pytest.raises(UserError, match="no run 'nope'"):
        RunFolder.find("nope", tmp_path, "ppo", None)
    with pytest.raises(UserError, match="not the folder of a run"):
        RunFolder.find(str(tmp_path), tmp_path, "ppo", None)


def test_a_damaged_file_of_the_run_is_named(tmp_path):
    folder = RunFolder.create(tmp_path, "ppo", "A-v0")
    for text in ("{a: [", "just words"):
        folder.write_text("config.yml", text)
        with pytest.raises(UserError, match=r"config\.yml"):
            folder.read_yaml("config.yml")
    with pytest.raises(UserError, match=r"missing\.yml"):
        folder.read_yaml("missing.yml")
    folder.results.write_text("{")
    assert folder.read_results() == {}, "half-written results are none"


def test_a_log_folder_that_cannot_be_is_found_out_without_making_anything(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        check_writable(tmp_path / "file" / "logs")
    with pytest.raises(UserError, match="cannot write"):
        RunFolder.create(tmp_path / "file" / "logs", "ppo", "A-v0")
    check_writable(tmp_path / "new" / "logs")
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "the check made something"
