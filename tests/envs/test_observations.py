import numpy as np

from rlsd_envs.observations import length, put, row, same, take

BATCH = {"a": np.arange(6.0).reshape(3, 2), "b": (np.arange(3), np.arange(3) * 10)}


def test_taken_rows_do_not_change_with_the_batch():
    array = np.arange(6.0).reshape(3, 2)
    taken = take(array, np.array([1]))
    array[:] = 0
    assert taken.tolist() == [[2.0, 3.0]]


def test_dictionaries_and_tuples_are_gone_through():
    assert length(BATCH) == 3
    one = row(BATCH, 2)
    assert one["a"].tolist() == [4.0, 5.0]
    assert one["b"] == (2, 20)
    replaced = put(take(BATCH, np.arange(3)), np.array([0]), take(BATCH, np.array([2])))
    assert row(replaced, 0)["b"] == (2, 20)
    assert not same(replaced, BATCH)
    assert same(take(BATCH, np.arange(3)), BATCH)


def test_memory_that_must_not_be_written_is_copied():
    array = np.zeros((2, 1))
    array.flags.writeable = False
    replaced = put(array, np.array([0]), np.ones((1, 1)))
    assert replaced.tolist() == [[1.0], [0.0]]
    assert array.tolist() == [[0.0], [0.0]]
