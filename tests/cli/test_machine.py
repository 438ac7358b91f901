"""The machine that a measurement names."""

import json

from rlsd.cli.machine import describe, machine


def test_a_machine_is_plain_data_and_one_line():
    found = machine()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"] and found["cores"] >= found["usable_cores"] >= 1
    line = describe(found)
    assert found["cpu"] in line and found["system"] in line and "\n" not in line


def test_what_is_not_known_is_left_out():
    found = {"cpu": "X", "cores": 4, "usable_cores": 2, "load_average": None, "system": "Y", "gpu": None}
    assert describe(found) == "X, 2 of 4 cores, Y"
    assert (
        describe({**found, "load_average": [1.0, 2.0, 3.0], "gpu": "Z"}) == "X, 2 of 4 cores, Y, load 1.00 2.00 3.00, Z"
    )
