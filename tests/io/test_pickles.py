"""Pickles read as data: the same values as unpickling gives, and nothing looked up, called or run."""

from __future__ import annotations

import collections
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlsd.io.pickles import Made, Symbol, read

PROTOCOLS = [2, 3, 4, 5]
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=300)
keys = st.text(max_size=5) | st.integers()
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner), max_leaves=20
)


@given(value=values, protocol=st.sampled_from(PROTOCOLS))
def test_plain_values_are_read_as_unpickling_reads_them(value, protocol):
    found = read(pickle.dumps(value, protocol), symbols=())
    assert found == value
    assert repr(found) == repr(value)


@every_protocol
def test_what_would_be_called_is_only_told(protocol):
    found = read(pickle.dumps(collections.OrderedDict(a=1), protocol))
    assert found.call == Symbol("collections", "OrderedDict")
    assert (found.args, found.items) == ((), {"a": 1})


@every_protocol
def test_arrays_are_told_with_their_bytes(protocol):
    array = np.arange(6.0)
    found = read(pickle.dumps(array, protocol))
    assert type(found) is Made
    if protocol > 2:  # which has no bytes, and would call a codec for them
        assert array.tobytes() in [*found.args, *(found.state or ())]


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


@every_protocol
def test_code_is_not_run_and_refused_where_symbols_are_named(protocol, tmp_path):
    content = pickle.dumps([Evil(tmp_path / "ran")], protocol)
    assert str(read(content)[0].call) == f"{os.mkdir.__module__}.mkdir"
    with pytest.raises(ValueError, match=r"it names '.*mkdir', which no weights need"):
        read(content, symbols={"collections.OrderedDict"})
    assert not (tmp_path / "ran").exists()


def test_nothing_is_imported():
    assert "antigravity" not in sys.modules
    read(b"\x80\x02cantigravity\nfly\n)R.")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b".",
            b"\x80\x02",
            b"\x80\x02N",
            b"nothing",
            b"\x80\x02(.",
            b"\x80\x02K\x01",
            b"\x80\x02u.",
            b"\x80\x02(u.",
        ),
        b"\x80\x02h\x05.",  # what was never kept
        b"\x80\x02q\x05.",  # keeps nothing
        b"\x80\x02NN}R.",  # calls None
        b"\x80\x02NNb.",  # gives a state to None
        b"\x80\x02NNa.",  # appends to None
        b"\x80\x02NNNs.",  # sets items of None
        b"\x80\x02}(NNNu.",  # an odd number of keys and values
        b"\x80\x02}]Ns.",  # a list as key
        b"\x80\x02}" + b")" + b"\x85" * 50_000 + b"Ns.",  # a key whose hash would go too deep
        b"\x80\x04NN\x93.",  # a symbol without a name
        b"\x80\x02X\xff\xff\xff\x7fabc.",  # a text that claims to be long
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a number that claims to be long
        b"I" + b"9" * 5000 + b"\n.",
        b"\x80\x04N\x8f.",  # a set
        b"(i__main__\nEvil\n.",
        b"(c__main__\nEvil\no.",
        b"\x80\x02\x82\x01.",  # a symbol by number
        b"P1\n.",
    ],
)
def test_what_is_no_pickle_of_weights_is_a_valueerror(content):
    with pytest.raises(ValueError, match=r".") as caught:
        read(content)
    assert len(str(caught.value)) < 400


def test_a_pickle_that_holds_itself_is_read():
    found = read(b"\x80\x02]q\x00h\x00a.")
    assert found[0] is found


@pytest.mark.parametrize("nest", [b"\x85", b"]a"])
def test_depth_costs_no_more_than_bytes(nest):
    start = b"\x80\x02)" if nest == b"\x85" else b"\x80\x02]" + b"]" * 0
    content = start + (nest * 100_000 if nest == b"\x85" else b"]" * 100_000 + b"a" * 100_000) + b"."
    assert read(content) is not None


def test_references_to_references_are_not_copied():
    content = b"\x80\x02]q\x00" + b"".join(b"]q\x01(" + b"h\x00" * 9 + b"eq\x00" for _ in range(500)) + b"."
    assert len(read(content)) == 9
