"""Charts as inline SVG; a page's style sheet gives their colours, its script their hints.

What can be pointed at is an element of class ``mark``; its attribute ``data-hint`` holds the text
of the hint, ``data-formula`` the number of the formula to show with it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from qmgen.inspection.histogram import Histogram
from qmgen.inspection.quantities import Scale

# Anchors of Matplotlib's viridis, between which colours are interpolated.
_VIRIDIS = (
    (68, 1, 84),
    (71, 45, 123),
    (59, 82, 139),
    (44, 114, 142),
    (33, 145, 140),
    (40, 174, 128),
    (94, 201, 98),
    (173, 220, 48),
    (253, 231, 37),
)
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 12.0, 10.0, 40.0
_LETTER = 6.5
# Of scatter plots, whose letters are larger on a phone.
_SCATTER_LEFT, _SCATTER_BOTTOM = 74.0, 54.0


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot.

    Attributes
    ----------
    x, y : float
        Place.
    hint : str
        Text that is shown when it is pointed at.
    shade : float or None
        0 to 1 on the colour scale; None for the plain colour.
    formula : int or None
        Number of the structural formula to show with the hint.
    """

    x: float
    y: float
    hint: str
    shade: float | None = None
    formula: int | None = None


@dataclass(frozen=True)
class TimeBar:
    """A bar of a chart over time, from `start` to `stop`, with the text of its hint."""

    start: float
    stop: float
    value: float
    hint: str


@dataclass(frozen=True)
class TimeMark:
    """A moment of a chart over time, with the text of its hint."""

    place: float
    hint: str


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    stop: float
    scale: Scale = "linear"

    def place(self, value: float) -> float:
        low, high, x = (
            (math.log10(v) for v in (self.low, self.high, value))
            if self.scale == "log"
            else (self.low, self.high, value)
        )
        return self.start + (self.stop - self.start) * (x - low) / (high - low)

    def ticks(self, number: int = 5) -> list[float]:
        if self.scale != "log":
            ticks = nice_ticks(self.low, self.high, number)
            return [t for t in ticks if t == round(t)] if self.scale == "integer" else ticks
        decades = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
        every = max(1, -(-len(decades) // number))
        return [10.0**d for d in decades if d % every == 0]


def nice_ticks(low: float, high: float, number: int = 5) -> list[float]:
    """Give about `number` multiples of 1, 2 or 5 times a power of ten in an interval."""
    raw = (high - low) / max(1, number)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def number_text(value: float) -> str:
    """Write a number with three significant digits, or a whole number up to a million in full."""
    if value == round(value) and abs(value) < 1e6:
        return f"{value:.0f}".replace("-", "−")
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    mantissa = mantissa.replace("-", "−")
    if not exponent:
        return mantissa
    power = str(int(exponent)).translate(_SUPERSCRIPTS)
    return f"10{power}" if mantissa == "1" else f"{mantissa}·10{power}"


def colour(shade: float) -> str:
    """Colour of a value from 0 to 1 on the scale viridis, as in a style sheet."""
    place = min(max(shade, 0.0), 1.0) * (len(_VIRIDIS) - 1)
    i = min(int(place), len(_VIRIDIS) - 2)
    mixed = (a + (b - a) * (place - i) for a, b in zip(_VIRIDIS[i], _VIRIDIS[i + 1], strict=True))
    return "#" + "".join(f"{round(part):02x}" for part in mixed)


def histogram_chart(data: Histogram, title: str, unit: str) -> Markup:
    """Draw a histogram; the axis is named by title and unit."""
    width, height = 400.0, 210.0
    edges = data.edges.tolist()
    # A single whole number is no bar as wide as the chart.
    margin = max(0.0, 2.5 - len(data.counts) / 2) if data.scale == "integer" else 0.0
    low, high = edges[0] - margin, edges[-1] + margin
    x = _Axis(low, high, _LEFT, width - _RIGHT, data.scale)
    y = _Axis(0.0, float(max(data.counts.max(), 1)), height - _BOTTOM, _TOP, "integer")
    marks = []
    for low, high, count in zip(edges[:-1], edges[1:], data.counts.tolist(), strict=True):
        if not count:
            continue
        if data.scale == "integer" and high - low == 1:
            where = f"{round((low + high) / 2)}"
        else:
            where = f"{number_text(low)} to {number_text(high)} {unit}"
        marks.append(
            _bar(
                x.place(low),
                x.place(high),
                y.place(float(count)),
                height - _BOTTOM,
                f"{where}: {count}",
            )
        )
    label = (
        f"Histogram of {title}: {data.size} values from {number_text(data.minimum)} to "
        f"{number_text(data.maximum)} {unit}, median {number_text(data.median)}"
    )
    axes = _x_axis(x, y.start, height, _axis_title(title, unit)) + _y_axis(y, x.start, x.stop)
    return _svg(width, height, label, axes + Markup("").join(marks))


def bar_chart(names: Sequence[str], counts: Sequence[int], title: str) -> Markup:
    """Draw one bar for each name."""
    width, height = 400.0, 210.0
    y = _Axis(0.0, float(max(*counts, 1)), height - _BOTTOM, _TOP, "integer")
    step = (width - _LEFT - _RIGHT) / len(names)
    body = _y_axis(y, _LEFT, width - _RIGHT)
    every = max(1, math.ceil(len(names) * 3 * _LETTER / (width - _LEFT - _RIGHT)))
    for i, (name, count) in enumerate(zip(names, counts, strict=True)):
        left = _LEFT + i * step
        top = y.place(float(count))
        body += _bar(left, left + step, top, height - _BOTTOM, f"{name}: {count}")
        if i % every == 0:
            body += _text(left + step / 2, height - _BOTTOM + 15, name, "middle")
    body += _text((_LEFT + width - _RIGHT) / 2, height - 6, title, "middle", "axis-title")
    largest = int(np.argmax(counts))
    label = (
        f"Bar chart, {title}: {len(names)} bars, the largest is {names[largest]} with "
        f"{counts[largest]}"
    )
    return _svg(width, height, label, body)


def scatter_chart(
    points: Sequence[Point], x_title: str, y_title: str, label: str, *, from_zero: bool = False
) -> Markup:
    """Draw points; with `from_zero` both axes start there."""
    width, height = 720.0, 440.0
    x = _span([p.x for p in points], _SCATTER_LEFT, width - _RIGHT, from_zero)
    y = _span([p.y for p in points], height - _SCATTER_BOTTOM, _TOP, from_zero)
    body = _x_axis(x, y.start, height, x_title) + _y_axis(y, x.start, x.stop, y_title)
    for p in points:
        style = "" if p.shade is None else Markup(' style="fill:{}"').format(colour(p.shade))
        formula = "" if p.formula is None else Markup(' data-formula="{}"').format(p.formula)
        body += Markup(
            '<circle class="mark" cx="{:.1f}" cy="{:.1f}" r="4"{}{} data-hint="{}"/>'
        ).format(x.place(p.x), y.place(p.y), style, formula, p.hint)
    return _svg(width, height, label, body, "scatter")


def time_chart(
    bars: Sequence[TimeBar],
    moments: Sequence[TimeMark],
    x_title: str,
    y_title: str,
    label: str,
    y_scale: Scale = "linear",
) -> Markup:
    """Draw bars that follow each other from time 0, and a line at each moment."""
    width, height = 720.0, 300.0
    base, top = height - _SCATTER_BOTTOM, 2 * _TOP
    x = _Axis(0.0, bars[-1].stop, _SCATTER_LEFT, width - _RIGHT)
    y = _Axis(0.0, max(*(bar.value for bar in bars), 1.0), base, top, y_scale)
    body = _x_axis(x, base, height, x_title) + _y_axis(y, x.start, x.stop, y_title)
    for bar in bars:
        if bar.value:
            body += _bar(x.place(bar.start), x.place(bar.stop), y.place(bar.value), base, bar.hint)
    for moment in moments:
        # Wide enough to be pointed at.
        body += Markup(
            '<rect class="mark break" x="{:.1f}" y="{:.1f}" width="3" height="{:.1f}" '
            'data-hint="{}"/>'
        ).format(x.place(moment.place) - 1.5, top, base - top, moment.hint)
    return _svg(width, height, label, body, "scatter")


def colour_legend(low: float, high: float, title: str) -> Markup:
    """Draw the colour scale between two values."""
    stops = Markup("").join(
        Markup('<stop offset="{}%" stop-color="{}"/>').format(12.5 * i, colour(i / 8))
        for i in range(9)
    )
    body = (
        Markup('<defs><linearGradient id="viridis">{}</linearGradient></defs>').format(stops)
        + Markup('<rect x="0" y="4" width="220" height="10" rx="3" fill="url(#viridis)"/>')
        + _text(0.0, 30.0, number_text(low), "start")
        + _text(110.0, 30.0, title, "middle", "axis-title")
        + _text(220.0, 30.0, number_text(high), "end")
    )
    text = f"Colours: {title} from {number_text(low)} to {number_text(high)}"
    return Markup(
        '<svg class="legend" viewBox="0 0 220 36" role="img" aria-label="{}">{}</svg>'
    ).format(text, body)


def _span(values: Sequence[float], start: float, stop: float, from_zero: bool) -> _Axis:
    low, high = (0.0 if from_zero else min(values)), max(values)
    margin = 0.04 * (high - low) or 0.5
    return _Axis(low if from_zero else low - margin, high + margin, start, stop)


def _svg(width: float, height: float, label: str, body: str, kind: str = "") -> Markup:
    # One stop of the tab key a chart; the script moves between marks with the arrow keys.
    return Markup(
        '<svg class="chart {}" viewBox="0 0 {:.0f} {:.0f}" role="img" tabindex="0" '
        'aria-label="{}">{}</svg>'
    ).format(kind, width, height, label, body)


def _bar(left: float, right: float, top: float, bottom: float, hint: str) -> Markup:
    gap = min(1.0, 0.1 * (right - left))
    return Markup(
        '<rect class="mark" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" data-hint="{}"/>'
    ).format(left + gap / 2, top, max(right - left - gap, 0.5), bottom - top, hint)


def _x_axis(axis: _Axis, base: float, height: float, title: str) -> Markup:
    body = Markup('<line class="axis" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        axis.start, base, axis.stop, base
    )
    for tick in axis.ticks():
        place = axis.place(tick)
        body += Markup(
            '<line class="axis" x1="{0:.1f}" y1="{1:.1f}" x2="{0:.1f}" y2="{2:.1f}"/>'
        ).format(place, base, base + 4)
        body += _text(place, base + 0.42 * (height - base), number_text(tick), "middle")
    return body + _text((axis.start + axis.stop) / 2, height - 6, title, "middle", "axis-title")


def _y_axis(axis: _Axis, left: float, right: float, title: str = "") -> Markup:
    body = Markup("")
    for tick in axis.ticks(4):
        place = axis.place(tick)
        body += Markup(
            '<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
        ).format(left, place, right, place)
        body += _text(left - 6, place + 4, number_text(tick), "end")
    if title:
        middle = (axis.start + axis.stop) / 2
        body += Markup(
            '<text class="axis-title" text-anchor="middle" '
            'transform="translate(16 {:.1f}) rotate(-90)">{}</text>'
        ).format(middle, title)
    return body


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        kind, x, y, anchor, text
    )


def _axis_title(title: str, unit: str) -> str:
    return f"{title} ({unit})" if unit else title
