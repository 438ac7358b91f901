"""The demo's picture is well-formed, and shows every point where it belongs."""

import xml.etree.ElementTree as ET

from rlsd.cli.picture import Curve, draw

SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_shows_both_agents_and_every_point_of_both_tasks():
    points = [(0, 20.0, 9.0), (500, 500.0, 9.0), (1000, 9.0, 480.0)]
    tree = ET.fromstring(draw([Curve("plain <SB3>", points), Curve("rlsd", points)], change=500))
    texts = [node.text for node in tree.iter(f"{SVG}text")]
    assert {"plain <SB3>", "rlsd", "A: 9", "B: 480"} <= set(texts)
    lines = [node.get("points").split() for node in tree.iter(f"{SVG}polyline")]
    assert [len(line) for line in lines] == [3, 3, 3, 3], "two tasks in each of two frames"
    heights = [float(point.split(",")[1]) for point in lines[0]]
    assert heights[1] < heights[0] < heights[2], "a higher return lies higher"


def test_nothing_earned_draws_too():
    ET.fromstring(draw([Curve("a", [(10, 0.0, 0.0)])], change=5))
