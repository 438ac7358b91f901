import numpy as np

from rlsd_envs.infos import BlankInfos, unpack


def test_each_environment_gets_its_own_row():
    info = {"x": np.array([1.0, 2.0]), "position": np.array([[1, 2], [3, 4]]), "names": ["a", "b"]}
    unpacked = unpack(info, 1)
    assert unpacked["x"] == 2.0
    assert unpacked["position"].tolist() == [3, 4]
    assert unpacked["names"] == "b"


def test_what_one_environment_did_not_say_is_left_out():
    info = {"goal": np.array([7, 0]), "_goal": np.array([True, False])}
    assert unpack(info, 0) == {"goal": 7}
    assert unpack(info, 1) == {}


def test_nested_dictionaries_are_unpacked_and_bookkeeping_is_dropped():
    info = {"stats": {"a": np.array([1, 2]), "_a": np.array([True, True])}, "env_id": np.arange(2), "version": "1"}
    assert unpack(info, 1) == {"stats": {"a": 2}, "version": "1"}


def test_no_two_environments_share_a_dictionary():
    infos = BlankInfos(3).take()
    assert len({id(info) for info in infos}) == 3


def test_what_a_reader_writes_is_gone_at_the_next_step_but_not_for_the_reader():
    blank = BlankInfos(3)
    first = blank.take()
    first[1]["mine"] = 1
    assert blank.take() == [{}, {}, {}]
    assert first == [{}, {"mine": 1}, {}]


def test_replacing_an_entry_does_not_change_the_next_list():
    blank = BlankInfos(2)
    blank.take()[0] = {"episode": 1}
    assert blank.take() == [{}, {}]
