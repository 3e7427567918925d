"""The drawings of the page: scales and their ticks, curves, maps of BN groups and of trust ratios."""

import re

import numpy as np
import pytest
from report_runs import row_mesh, torus_mesh

from efficientnet_pod.report.drawing.axes import Scale, bounds
from efficientnet_pod.report.drawing.curves import Band, Curve, curves, stacked_bar
from efficientnet_pod.report.drawing.maps import group_colours, heat_map, lay_out
from efficientnet_pod.workdir.mesh import read_mesh


@pytest.mark.parametrize(
    "low, high, most, ticks",
    [
        (0, 102, 6, [0, 20, 40, 60, 80, 100]),
        (0.48, 1.02, 6, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        (-3, 12, 5, [0, 5, 10]),
        (0, 5e-324, 5, [0]),
        (-1e15, 1e15, 5, [-1e15, -5e14, 0, 5e14, 1e15]),
    ],
)
def test_ticks_are_round_and_few(low, high, most, ticks):
    assert Scale((low, high), (0, 100)).ticks(most) == pytest.approx(ticks)


def test_ticks_of_logarithmic_and_of_whole_numbers():
    assert Scale((0.9, 60), (0, 1), is_log=True).log_ticks() == [1, 2, 5, 10, 20, 50]
    assert Scale((1e-4, 1), (0, 1), is_log=True).log_ticks() == pytest.approx([1e-4, 1e-3, 1e-2, 0.1, 1])
    assert len(Scale((5e-324, 1e15), (0, 1), is_log=True).log_ticks()) <= 13
    assert Scale((0, 2), (0, 1)).ticks(5, least_step=1) == [0, 1, 2]
    assert Scale((1, 100), (0, 8), is_log=True)(10) == 4 and Scale((1, 5), (8, 0))(2) == 6


@pytest.mark.parametrize("values", [[0], [5], [-2, -2], [5e-324], [1e15, -1e15], [1.0, 1.0 + 1e-15]])
def test_an_axis_has_a_length_whatever_the_values(values):
    low, high = bounds(values)
    assert low < min(values) and max(values) < high


def test_one_point_is_a_dot_and_gaps_are_left_out():
    assert curves([Curve([1, None], [None, 2], "s0")], title="t", x_label="x") is None
    one = curves([Curve([1, 2], [None, 2], "s0")], title="t", x_label="x")
    assert one and one.count("h0") == 1 and 'aria-label="t"' in one
    band = Band([1, 2, 3], [1.0, np.nan, 1.0], [2.0, np.nan, 2.0], "s1")
    both = curves([Curve([1, 2, 3], [1, 2, 3], "s0")], title="<", x_label="x", bands=[band])
    assert both and both.count("opacity") == 2 and 'aria-label="&lt;"' in both and "nan" not in both


def test_the_pieces_of_a_bar_fill_it():
    widths = [
        float(width) for width in re.findall(r"h(\d\S*?)v", stacked_bar([(3, "s0"), (1, "s1")], title="t"))
    ]
    assert widths == [705, 235]


def test_bn_groups_lie_on_the_torus_or_in_a_row():
    layout = lay_out(read_mesh(torus_mesh(8, 16, (4, 2))))
    assert (
        layout and layout.on_torus and (layout.width, layout.height) == (16, 8)
    )  # the longer side is across
    assert layout.num_groups == 16 and len(layout.cells) == 128  # two cores of a group are one square
    chip = {"coords": [0, 0, 0]}
    split = lay_out(read_mesh({"groups": [[chip | {"core": 0}], [chip | {"core": 1}]]}))
    assert split and [(cell.x, cell.width) for cell in split.cells] == [(0, 0.5), (0.5, 0.5)]
    chips = [[{"coords": [x, y, z], "core": 0}] for x in (1, 2) for y in (0, 1) for z in (0, 1)]
    box = lay_out(read_mesh({"groups": chips}))
    assert box and box.depths == 2 and (box.width, box.height) == (4.6, 2)
    row = lay_out(read_mesh(row_mesh(2, 20)))
    assert row and not row.on_torus and (row.width, row.height) == (32, 2)
    for nothing in ({}, {"groups": []}, {"groups": [[], 3]}, {"groups": 3}):
        assert read_mesh(nothing) is None


@pytest.mark.parametrize("mesh", [torus_mesh(32, 16, (4, 2)), torus_mesh(16, 16, (1, 1), 1), row_mesh(64, 1)])
def test_no_two_neighbours_of_different_groups_have_one_colour(mesh):
    layout = lay_out(read_mesh(mesh))
    assert layout
    colours = group_colours(layout)
    at = {(cell.x, cell.y): cell.group for cell in layout.cells}
    for (x, y), group in at.items():
        for place in ((x + 1, y), (x, y + 1)):
            if place in at and at[place] != group:
                assert colours[group] != colours[at[place]]


def test_a_map_without_a_number_above_0_is_none():
    assert heat_map(["a"], [1, 2], np.full((1, 2), np.nan), title="t") is None
    drawn = heat_map(["<a>", "日本"], [1, 2], np.array([[1.0, 2.0], [np.nan, -1.0]]), title="t")
    assert drawn and "&lt;a&gt;" in drawn[0] and drawn[1][0] == 1 and drawn[1][-1] == pytest.approx(2)
