import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.report.plot import (
    BOX,
    HEIGHT,
    LABEL_HEIGHT,
    Chart,
    Series,
    draw,
    log_ticks,
    script_json,
    spread,
    thin,
    ticks,
)


def chart(*series: Series, **settings: object) -> Chart:
    return Chart(title="Loss", y_label="nats", series=series, **settings)  # type: ignore[arg-type]


def test_thinning_keeps_ends_and_extremes() -> None:
    points = [(float(x), math.sin(x / 500)) for x in range(50_000)]
    points[31_234] = (31_234.0, 99.0)
    points[40_001] = (40_001.0, -99.0)
    thinned = thin(points)
    assert len(thinned) <= 2000
    assert thinned[0] == points[0]
    assert thinned[-1] == points[-1]
    assert {(31_234.0, 99.0), (40_001.0, -99.0)} <= set(thinned)
    assert thinned == sorted(thinned)


def test_short_curves_are_not_thinned() -> None:
    points = [(float(x), float(-x)) for x in range(2000)]
    assert thin(points) is points


@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=300), st.integers(4, 20))
def test_thinning_invents_nothing(values: list[float], limit: int) -> None:
    points = [(float(x), y) for x, y in enumerate(values)]
    thinned = thin(points, limit)
    assert len(thinned) <= max(limit, 2)
    assert set(thinned) <= set(points)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (2.3, 3.6, [2.5, 3, 3.5]),
        (1, 120, [50, 100]),
        (0, 2e-4, [0, 5e-5, 1e-4, 1.5e-4, 2e-4]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_logarithmic_ticks() -> None:
    assert log_ticks(8, 600) == [10, 20, 50, 100, 200, 500]
    assert log_ticks(14, 17) == [14, 15, 16, 17]
    assert log_ticks(1, 1e9) == [10.0**n for n in range(10)]


def test_labels_do_not_overlap() -> None:
    tops = spread([10, 11, 12, 215, 219])
    assert all(b - a >= LABEL_HEIGHT - 1e-9 for a, b in pairwise(tops))
    assert max(tops) <= HEIGHT


def test_a_curve_lies_in_its_box() -> None:
    plot = draw(chart(Series(name="a", points=[(1, 3.0), (2, 2.0), (3, 1.0)])))
    assert plot is not None
    places = [tuple(map(float, place.split(","))) for place in plot.lines[0].path.split()]
    assert [x for x, _ in places] == [0, BOX / 2, BOX]
    assert all(0 <= y <= BOX for _, y in places)
    assert places[0][1] < places[-1][1]  # the larger loss is drawn higher
    assert plot.lines[0].dots.count("M") == 3
    assert "from 3.00 to 1.00" in plot.summary


@pytest.mark.parametrize("points", [[(5.0, 2.0)], [(1.0, 0.0), (2.0, 0.0)], [(1.0, -4.0), (9.0, -4.0)]])
def test_flat_and_single_points_can_be_drawn(points: list[tuple[float, float]]) -> None:
    for logarithmic in (False, True):
        plot = draw(chart(Series(name="a", points=points), logarithmic=logarithmic))
        assert plot is not None
        assert "nan" not in plot.lines[0].path


def test_nothing_to_draw() -> None:
    assert draw(chart(Series(name="a", points=[]))) is None


def test_one_curve_needs_no_label_and_several_do() -> None:
    one, two = (Series(name=name, points=[(1, y), (2, y)]) for name, y in (("a", 1.0), ("b", 2.0)))
    alone, both = draw(chart(one)), draw(chart(one, two))
    assert alone is not None
    assert both is not None
    assert alone.labels == []
    assert [label.name for label in both.labels] == ["b", "a"]  # from the top


def test_marks_outside_the_axis_are_left_out() -> None:
    plot = draw(chart(Series(name="a", points=[(1, 1), (11, 2)]), marks=[0, 6, 40]))
    assert plot is not None
    assert plot.marks == [50.0]


def test_json_in_a_script_element_cannot_end_it() -> None:
    text = script_json({"a": "</script><!-- & \u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!-- & \u2028"}
