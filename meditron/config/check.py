"""Small checks that name the field they refuse."""

from collections.abc import Collection

from meditron.errors import ConfigError


def require(condition: bool, field: str, value: object, rule: str) -> None:
    """Refuse `value` of the dotted `field` unless `condition` holds.

    Raises:
        ConfigError: "<field>: <value> <rule>".
    """
    if not condition:
        raise ConfigError(f"{field}: {value!r} {rule}")


def require_choice(value: str, choices: Collection[str], field: str) -> None:
    """Refuse a value outside `choices`, naming the nearest one.

    Raises:
        ConfigError: with the valid names.
    """
    if value not in choices:
        raise ConfigError(f"{field}: {value!r} is unknown{suggest(value, choices)}")


def suggest(value: str, choices: Collection[str]) -> str:
    """`; did you mean 'x'?` where a near name exists, else the list of names."""
    import difflib

    near = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; choose from {', '.join(sorted(choices))}"
