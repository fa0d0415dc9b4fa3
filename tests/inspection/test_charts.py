"""Charts: well-formed SVG that shows what it was given, and escapes it."""

import math
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from qmgen.inspection.charts import (
    Point,
    TimeBar,
    TimeMark,
    bar_chart,
    colour,
    colour_legend,
    histogram_chart,
    nice_ticks,
    number_text,
    scatter_chart,
    time_chart,
)
from qmgen.inspection.histogram import histogram
from tests.inspection.conftest import HOSTILE


def marks(chart: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(chart)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    return [e for e in root.iter() if e.get("class") == "mark"]


@pytest.mark.parametrize("scale", ["linear", "log", "integer"])
def test_bars_are_as_high_as_their_counts(scale: str) -> None:
    values = np.random.default_rng(0).integers(1, 30, 400).astype(float)
    data = histogram(values, scale)
    assert data is not None
    bars = marks(histogram_chart(data, HOSTILE, "eV"))
    counts = data.counts[data.counts > 0]
    heights = np.array([float(bar.get("height", "nan")) for bar in bars])
    np.testing.assert_allclose(heights / heights.max(), counts / counts.max(), atol=2e-3)
    hints = [bar.get("data-hint", "") for bar in bars]
    assert [int(hint.rpartition(": ")[2]) for hint in hints] == counts.tolist()
    left = [float(bar.get("x", "nan")) for bar in bars]
    assert left == sorted(left)


def test_bar_chart_names_its_bars() -> None:
    bars = marks(bar_chart(["C", HOSTILE], [3, 1], "atoms"))
    assert [bar.get("data-hint") for bar in bars] == ["C: 3", f"{HOSTILE}: 1"]
    assert float(bars[0].get("height", 0)) == pytest.approx(
        3 * float(bars[1].get("height", 0)), abs=0.2
    )


def test_points_lie_where_their_values_are() -> None:
    points = [Point(0.0, 0.0, HOSTILE), Point(1.0, 2.0, "b", 0.5, 7), Point(4.0, 1.0, "c")]
    chart = scatter_chart(points, "x", "y", "label", from_zero=True)
    assert "<script" not in chart
    circles = marks(chart)
    x = [float(c.get("cx", "nan")) for c in circles]
    y = [float(c.get("cy", "nan")) for c in circles]
    assert (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx(1 / 4, abs=1e-3)
    assert (y[2] - y[0]) / (y[1] - y[0]) == pytest.approx(1 / 2, abs=1e-3)
    assert y[1] < y[0]  # upwards
    assert circles[0].get("data-hint") == HOSTILE
    assert (circles[1].get("data-formula"), circles[0].get("data-formula")) == ("7", None)
    assert colour(0.5) in circles[1].get("style", "")
    # A single place still has axes.
    assert len(marks(scatter_chart([Point(1.0, 1.0, "one")], "x", "y", "label"))) == 1


def test_bars_over_time_are_as_wide_as_their_intervals() -> None:
    bars = [TimeBar(0.0, 2.0, 4.0, HOSTILE), TimeBar(2.0, 4.0, 0.0, "none")]
    bars.append(TimeBar(4.0, 5.0, 8.0, "c"))
    chart = time_chart(bars, [TimeMark(2.0, "pause")], "x", "y", "label")
    assert "<script" not in chart
    first, last = marks(chart)  # an empty interval has no bar
    for name, ratio in (("height", 1 / 2), ("width", 2)):
        assert float(first.get(name, 0)) / float(last.get(name, 1)) == pytest.approx(
            ratio, rel=0.02
        )
    line = next(e for e in ElementTree.fromstring(chart).iter() if e.get("class") == "mark break")
    assert line.get("data-hint") == "pause"
    end = float(first.get("x", 0)) + float(first.get("width", 0))
    middle = float(line.get("x", 0)) + float(line.get("width", 0)) / 2
    assert middle == pytest.approx(end, abs=1.0)


def test_colours_are_viridis() -> None:
    viridis = mpl.colormaps["viridis"]
    for shade in np.linspace(0, 1, 21):
        ours = [int(colour(float(shade))[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        np.testing.assert_allclose(ours, viridis(shade)[:3], atol=0.07)  # straight between anchors
    assert "url(#viridis)" in colour_legend(1.0, 2.0, "gap")


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 7.0), (-3.2, 4.1), (1e-7, 5e-7), (-900.0, -20.0), (3.0, 3.01)]
)
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 3 <= len(ticks) <= 8
    slack = 1e-6 * (high - low)
    assert low - slack <= ticks[0] <= ticks[-1] <= high + slack
    step = ticks[1] - ticks[0]
    np.testing.assert_allclose(np.diff(ticks), step, rtol=1e-9)
    leading = step / 10 ** math.floor(math.log10(step * 1.0001))
    assert min(abs(leading - nice) for nice in (1, 2, 5)) < 1e-6


def test_numbers_read_well() -> None:
    written = [number_text(x) for x in (0.0, -3.0, 1234567.0, 0.000012, 20000.0, -1.23456, 1e-9)]
    assert written == ["0", "−3", "1.23·10⁶", "1.2·10⁻⁵", "20000", "−1.23", "10⁻⁹"]
