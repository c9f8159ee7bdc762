import pytest

from evaluation.report import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (25.8249, "25.8"),
        (134.2, "134"),
        (1234.5, "1,234"),
        (9.996, "10.0"),
        (0.1234, "0.123"),
        (0.01234, "0.0123"),
        (0.001234, "0.00123"),
        (0.00012345, "1.23e−4"),
        (-3.14159, "−3.14"),
        (123456789, "1.23e8"),
        (None, "not measured"),
    ],
)
def test_three_significant_digits(value: float | None, text: str) -> None:
    assert numbers.significant(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (999, "", "999"),
        (134_515_008, "", "135\N{NO-BREAK SPACE}M"),
        (2.1e11, "FLOP/s", "210\N{NO-BREAK SPACE}GFLOP/s"),
        (999_600, "", "1.00\N{NO-BREAK SPACE}M"),
    ],
)
def test_prefixes(value: float, unit: str, text: str) -> None:
    assert numbers.short(value, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3.21, "3.2 s"),
        (59.96, "1 min 00 s"),
        (75, "1 min 15 s"),
        (4000, "1 h 07 min"),
        (None, "not measured"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert numbers.duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(("value", "text"), [(-3.21, "−3.2 %"), (4.0, "+4.0 %"), (-0.04, "±0.0 %")])
def test_changes_carry_their_sign(value: float, text: str) -> None:
    assert numbers.signed(value, "%").replace("\N{NO-BREAK SPACE}", " ") == text


def test_intervals_and_sizes() -> None:
    assert numbers.interval((0.16, 0.372), 100) == "16.0–37.2"
    assert numbers.interval(None) == "no interval"
    assert numbers.size(3_670_016).replace("\N{NO-BREAK SPACE}", " ") == "3.50 MiB"
    assert numbers.size(12).replace("\N{NO-BREAK SPACE}", " ") == "12 B"
    assert numbers.percent(0.2567).replace("\N{NO-BREAK SPACE}", " ") == "25.7 %"
