"""Numbers as the page writes them; None is always `not measured`."""

NOT_MEASURED = "not measured"
MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float | None) -> str:
    """`1234` -> `1,234`."""
    return NOT_MEASURED if value is None else f"{value:,.0f}"


def short(value: float | None, unit: str = "") -> str:
    """Three digits and an SI prefix: `134515008` -> `135 M`; `2.1e11, FLOP/s` -> `210 GFLOP/s`."""
    if value is None:
        return NOT_MEASURED
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor * 0.9995:
            return f"{significant(value / factor)}{_SPACE}{prefix}{unit}"
    return f"{significant(value)}{_SPACE}{unit}" if unit else significant(value)


def significant(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits, and all those before the point: `0.00012345` -> `1.23e-4`."""
    if value is None:
        return NOT_MEASURED
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if not -4 < int(exponent) < 7:
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    decimals = max(0, digits - 1 - int(exponent))
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def percent(share: float | None, decimals: int = 1) -> str:
    """`0.256` -> `25.6 %`."""
    return NOT_MEASURED if share is None else f"{100 * share:.{decimals}f}{_SPACE}%".replace("-", MINUS)


def signed(value: float | None, unit: str, decimals: int = 1) -> str:
    """A change with its sign: `-3.21, points` -> `−3.2 points`."""
    if value is None:
        return NOT_MEASURED
    text = f"{value:+.{decimals}f}"
    if float(text) == 0:
        text = f"±{text[1:]}"
    return (f"{text}{_SPACE}{unit}" if unit else text).replace("-", MINUS)


def duration(seconds: float | None) -> str:
    """`75` -> `1 min 15 s`, `4000` -> `1 h 07 min`, `3.21` -> `3.2 s`."""
    if seconds is None:
        return NOT_MEASURED
    if seconds < 59.95:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest:02d}{_SPACE}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,}{_SPACE}h {minutes:02d}{_SPACE}min"


def size(bytes_: float | None) -> str:
    """`3670016` -> `3.50 MiB`."""
    if bytes_ is None:
        return NOT_MEASURED
    value, unit = float(bytes_), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{count(value) if unit == 'B' else significant(value)}{_SPACE}{unit}"


def interval(bounds: "tuple[float, float] | None", scale: float = 1.0) -> str:
    """`(0.16, 0.37)` with scale 100 -> `16.0–37.0`."""
    if bounds is None:
        return "no interval"
    low, high = (significant(scale * bound) if scale == 1 else f"{scale * bound:.1f}" for bound in bounds)
    return f"{low}\N{EN DASH}{high}"
