"""Curves as inline SVG: what is drawn is computed here, the template only writes it down.

The plot is as wide as the page lets it be and of a fixed height. So the lines are drawn in a box of
1000 x 1000 that is stretched, with strokes that are not, while labels are HTML at a share of the width.
"""

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from evaluation.report.numbers import short, significant
from evaluation.report.training import Points

HEIGHT = 220
"""Height of the plot, CSS pixels."""
BOX = 1000
"""Width and height of the stretched box."""
LABEL_HEIGHT = 15
"""Least distance of two labels, CSS pixels."""
TICK_ROOM = 0.08
"""Least distance of two labels of the x axis, share of its length."""
MAX_POINTS = 2000
"""Points of a curve beyond which it is thinned."""
DOTS_UP_TO = 40
"""Points of a curve up to which each is drawn as a dot as well."""
COLOURS = 8
"""Colours of the palette, see assets/style.css."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve."""

    name: str
    """Written at its end."""
    points: Points
    """(x, y), x rising."""
    colour: int = 0
    """Index into the palette."""
    style: str = "solid"
    """solid, dashed, or faint (behind the others, without a label)."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves over one x axis."""

    title: str
    """What is shown."""
    y_label: str
    """Quantity and unit of the y axis."""
    series: Sequence[Series]
    """The curves, in the order of the legend."""
    x_label: str = "step"
    """Quantity and unit of the x axis."""
    from_zero: bool = False
    """Whether the y axis begins at 0."""
    logarithmic: bool = False
    """Whether the y axis is logarithmic."""
    x_logarithmic: bool = False
    """Whether the x axis is; its ticks are then the points' own places."""
    marks: Sequence[float] = ()
    """Places on the x axis to point out."""
    note: str = ""
    """A sentence under the plot."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark of an axis."""

    at: float
    """Per cent of the width from the left, or of the height from the top."""
    text: str
    """Its number."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve in the box."""

    name: str
    """Name of the series."""
    colour: int
    """Index into the palette."""
    style: str
    """solid, dashed or faint."""
    path: str
    """Coordinates for `<polyline points>`."""
    dots: str
    """Coordinates for a path of dots; empty where there are too many points."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """A series' name at the end of its curve."""

    name: str
    """Name of the series."""
    colour: int
    """Index into the palette."""
    top: float
    """Middle of the text, CSS pixels from the top."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A chart, ready to be written."""

    chart: Chart
    """What it shows."""
    lines: Sequence[Line]
    """Curves, faint ones first."""
    labels: Sequence[Label]
    """Names at the right."""
    x_ticks: Sequence[Tick]
    """Marks of the x axis."""
    y_ticks: Sequence[Tick]
    """Marks of the y axis."""
    marks: Sequence[float]
    """Per cent from the left."""
    summary: str
    """The plot in words, for who cannot see it."""
    data: str
    """The points as JSON, for the tooltip; safe inside a script element."""
    height: int = field(default=HEIGHT)
    """CSS pixels."""


@dataclass(frozen=True)
class Scale:
    """From values to 0-1."""

    low: float
    high: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Where `value` lies between `low` (0) and `high` (1)."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)


def thin(points: Points, limit: int = MAX_POINTS) -> Points:
    """At most `limit` points with the same outline: first, last, and each stretch's lowest and highest."""
    if len(points) <= limit:
        return points
    stretches = (limit - 2) // 2
    inner = points[1:-1]
    kept = [points[0]]
    for index in range(stretches):
        stretch = inner[index * len(inner) // stretches : (index + 1) * len(inner) // stretches]
        kept += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
    return [*kept, points[-1]]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within `low` to `high`."""
    step = _round_step((high - low) / about)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten within `low` to `high`; round numbers where those are too few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    inside = [value for value in found if low <= value <= high]
    if len(inside) > 7:
        inside = [value for value in inside if f"{value:e}".startswith("1")]
    return inside if len(inside) >= 3 else ticks(low, high, 4)


def draw(chart: Chart) -> Plot | None:
    """Compute a chart's plot; None when it has no point."""
    series = [s for s in chart.series if s.points]
    if not series:
        return None
    thinned = {s.name: thin(s.points) for s in series}
    everything = [point for points in thinned.values() for point in points]
    x_scale = _x_scale([x for x, _ in everything], chart.x_logarithmic)
    y_scale = _y_scale([y for _, y in everything], chart)
    y_values = (
        log_ticks(y_scale.low, y_scale.high) if y_scale.logarithmic else ticks(y_scale.low, y_scale.high)
    )
    ordered = sorted(series, key=lambda s: s.style != "faint")
    named = [s for s in series if s.style != "faint"]
    return Plot(
        chart=chart,
        lines=[_line(s, thinned[s.name], x_scale, y_scale) for s in ordered],
        labels=_labels(named, y_scale) if len(named) > 1 else [],
        x_ticks=[
            Tick(at=round(100 * x_scale(x), 2), text=f"{x:,.0f}")
            for x in _x_ticks(x_scale, {x for x, _ in everything})
        ],
        y_ticks=[Tick(at=round(100 * (1 - y_scale(y)), 2), text=_tick_text(y)) for y in y_values],
        marks=[round(100 * x_scale(x), 2) for x in chart.marks if x_scale.low <= x <= x_scale.high],
        summary=_summary(chart, series),
        data=_data(series, thinned),
    )


def _x_scale(values: Sequence[float], logarithmic: bool) -> Scale:
    low, high = min(values), max(values)
    return Scale(low, high if high > low else low + 1, logarithmic)


def _x_ticks(scale: Scale, places: Collection[float]) -> list[float]:
    """Whole numbers; on a logarithmic axis the points' own places, as far as their labels have room."""
    if not scale.logarithmic:
        return [x for x in ticks(scale.low, scale.high, about=6) if x == int(x)]
    shown: list[float] = []
    for x in sorted(places):
        if not shown or scale(x) - scale(shown[-1]) > TICK_ROOM:
            shown.append(x)
    return shown


def _y_scale(values: Sequence[float], chart: Chart) -> Scale:
    low, high = min(values), max(values)
    if chart.logarithmic and low > 0:
        room = max((high / low) ** 0.06, 1.02)
        return Scale(low / room, high * room, logarithmic=True)
    room = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    return Scale(0.0 if chart.from_zero and low >= 0 else low - room, high + room)


def _line(series: Series, points: Points, x_scale: Scale, y_scale: Scale) -> Line:
    places = [f"{BOX * x_scale(x):.1f},{BOX * (1 - y_scale(y)):.1f}" for x, y in points]
    few = len(points) <= DOTS_UP_TO
    return Line(
        name=series.name,
        colour=series.colour % COLOURS,
        style=series.style,
        path=" ".join(places),
        dots="".join(f"M{place}h0" for place in places) if few else "",
    )


def _labels(series: Sequence[Series], y_scale: Scale) -> list[Label]:
    """Names beside the last points, moved apart where they would overlap."""
    ordered = sorted(series, key=lambda s: -s.points[-1][1])
    tops = spread([HEIGHT * (1 - y_scale(s.points[-1][1])) for s in ordered])
    return [
        Label(name=s.name, colour=s.colour % COLOURS, top=round(top, 1))
        for s, top in zip(ordered, tops, strict=True)
    ]


def spread(tops: Sequence[float], distance: float = LABEL_HEIGHT, height: float = HEIGHT) -> list[float]:
    """Move rising positions so that neighbours are `distance` apart and none is beyond `height`."""
    moved: list[float] = []
    for top in tops:
        moved.append(max(top, moved[-1] + distance) if moved else top)
    limit = height
    for index in range(len(moved) - 1, -1, -1):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - distance
    return moved


def _tick_text(value: float) -> str:
    if abs(value) >= 1e4:
        return short(value)
    if value and abs(value) < 1e-3:
        return significant(value, 2).replace(".0e", "e")
    return f"{value:,.6g}"


def _summary(chart: Chart, series: Sequence[Series]) -> str:
    named = [
        f"{s.name} from {significant(s.points[0][1])} to {significant(s.points[-1][1])}"
        for s in series
        if s.style != "faint" or len(series) == 1
    ]
    return f"{chart.title}, {chart.y_label} by {chart.x_label}: {'; '.join(named)}"


def _data(series: Sequence[Series], thinned: dict[str, Points]) -> str:
    content = [
        {
            "name": s.name,
            "colour": s.colour % COLOURS,
            "x": [x for x, _ in thinned[s.name]],
            "y": [float(f"{y:.5g}") for _, y in thinned[s.name]],
        }
        for s in series
    ]
    return script_json(content)


def script_json(value: object) -> str:
    """JSON that may stand inside a script element: no `<`, `>` or `&` can end it or open another one."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
