"""Reading a recipe: defaults < file < command line, by jsonargparse from the dataclasses."""

import types
import typing
from argparse import ArgumentError, HelpFormatter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from meditron.config.check import suggest
from meditron.config.launch import LaunchConfig
from meditron.config.recipe import Recipe, resolve
from meditron.config.wording import flat, in_words
from meditron.errors import ConfigError

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class RecipeParser(ArgumentParser):
    """A parser of all recipe fields whose help shows only the sections of one verb."""

    hidden: frozenset[str] = frozenset()

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """Help text without the hidden sections (argparse renders the groups it finds in this list)."""
        everything = self._action_groups
        self._action_groups = [
            group
            for group in everything
            if str(getattr(group, "dest", None)).split(".")[0] not in self.hidden
        ]
        try:
            return str(super().format_help(formatter))
        finally:
            self._action_groups = everything


def build_parser(prog: str, description: str, sections: Sequence[str]) -> RecipeParser:
    """A parser of all recipe fields whose help shows the recipe's own fields and `sections`."""
    parser = RecipeParser(
        prog=prog,
        usage=f"{prog} [--config] RECIPE.yaml [--section.field VALUE ...]",
        description=description,
        exit_on_error=False,
        print_config=None,
    )
    parser.hidden = frozenset(f.name for f in fields(Recipe) if is_dataclass(f.type)) - set(sections)
    parser.add_argument("--config", action="config", help="recipe (YAML); the command line overrides it")
    parser.add_argument("--cluster", help="file of `launch` settings alone (YAML), over those of the recipe")
    parser.add_argument("--print_config", action="store_true", help="print the resolved recipe and stop")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_class_arguments(Recipe, sub_configs=False)
    return parser


def parse_recipe(parser: ArgumentParser, arguments: Sequence[str]) -> tuple[Recipe, Namespace]:
    """Read a command line into a resolved recipe and the flags that are not part of it.

    Raises:
        ConfigError: an unknown key (dotted path, nearest valid name) or a value of the wrong type.
    """
    for path in _values(arguments, "--config"):
        _check_file(path)
    _check_flags(arguments)
    clusters = [word for path in _values(arguments, "--cluster") for word in ("--config", _cluster(path))]
    try:
        namespace = parser.parse_args(_files_first(arguments, clusters))
        built = parser.instantiate(namespace)
    except ArgumentError as error:
        raise ConfigError(in_words(str(error), list(_given(arguments)))) from error
    recipe = Recipe(**{field.name: built[field.name] for field in fields(Recipe)})
    return resolve(recipe), namespace


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, with command-line style overrides (`["--seed", "1"]`), resolved.

    Raises:
        ConfigError: as `parse_recipe`.
    """
    parser = build_parser("meditron", "", ())
    return parse_recipe(parser, ["--config", str(path), *overrides])[0]


def recipe_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, for manifests, run folders and YAML."""
    return asdict(recipe)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that `load_recipe` reads back to an equal recipe."""
    return yaml.safe_dump(recipe_dict(recipe), sort_keys=False, allow_unicode=True)


def _values(arguments: Sequence[str], option: str) -> Iterator[str]:
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        if argument == option:
            yield following
        elif argument.startswith(f"{option}="):
            yield argument.removeprefix(f"{option}=")


def _files_first(arguments: Sequence[str], clusters: Sequence[str]) -> list[str]:
    """The command line with recipes, then clusters, before all that overrides them."""
    recipes: list[str] = []
    others: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--config":
            recipes += [word, next(words, "")]
        else:
            (recipes if word.startswith("--config=") else others).append(word)
    return [*recipes, *clusters, *others]


def _check_file(path: str) -> None:
    _check_keys(_read_mapping(path, "--config"), Recipe, "", path)


def _cluster(path: str) -> str:
    """A cluster file as the recipe that has nothing else."""
    content = _read_mapping(path, "--cluster")
    _check_keys(content, LaunchConfig, "", path)
    return yaml.safe_dump({"launch": content})


def _read_mapping(path: str, option: str) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"{option} {path}: cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{path}: a recipe maps stages to settings, this is a {type(content).__name__}")
    return content or {}


def _check_keys(content: Mapping[Any, Any], cls: type, prefix: str, where: str) -> None:
    types_by_name = typing.get_type_hints(cls)
    for key, value in content.items():
        dotted = f"{prefix}{key}"
        if key not in types_by_name:
            raise ConfigError(f"{where}: unknown key {dotted!r}{suggest(str(key), types_by_name)}")
        nested, is_mapping = _nested_dataclass(types_by_name[key])
        if nested is not None:
            _check_nested(value, nested, is_mapping, dotted, where)


def _check_nested(value: Any, cls: type, is_mapping: bool, dotted: str, where: str) -> None:  # noqa: ANN401
    """The keys of a value that is read as a dataclass, or that maps names to such."""
    if not isinstance(value, Mapping):
        return
    for name, item in value.items() if is_mapping else [("", value)]:
        if isinstance(item, Mapping):
            _check_keys(item, cls, f"{dotted}.{name}." if name else f"{dotted}.", where)


def _nested_dataclass(annotation: object) -> tuple[type | None, bool]:
    """The dataclass inside `X`, `X | None` or `dict[str, X]`, and whether it is the values of a dict."""
    if isinstance(annotation, type) and is_dataclass(annotation):
        return annotation, False
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        found = [_nested_dataclass(argument) for argument in arguments]
        return next((pair for pair in found if pair[0] is not None), (None, False))
    if typing.get_origin(annotation) is dict:
        return _nested_dataclass(arguments[1])[0], True
    return None, False


def _check_flags(arguments: Sequence[str]) -> None:
    for name, text in _options(arguments):
        cls, is_mapping = _check_dotted(name)
        if cls is not None:
            _check_nested(_as_yaml(text), cls, is_mapping, name, "command line")


def _check_dotted(name: str) -> tuple[type | None, bool]:
    """The dataclass that an option's value is read as, if any, and whether it maps names to such."""
    cls: type | None = Recipe
    prefix = ""
    free_name = False
    for part in name.removesuffix("+").split("."):
        if free_name:
            free_name = False
        elif cls is None:
            return None, False
        else:
            hints = typing.get_type_hints(cls)
            if part not in hints:
                dotted = [prefix + known for known in hints]
                raise ConfigError(f"command line: unknown option --{name}{suggest(prefix + part, dotted)}")
            cls, free_name = _nested_dataclass(hints[part])
        prefix += f"{part}."
    return cls, free_name


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Dotted path and value of all that files and command line say, in the order in which they count."""
    for path in _values(arguments, "--config"):
        yield from flat(_read_mapping(path, "--config"))
    for name, text in _options(arguments):
        value = _as_yaml(text)
        yield name, value
        yield from flat(value, f"{name}.")


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Dotted name and text of each option of a recipe on the command line."""
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        name, equals, text = argument[2:].partition("=")
        is_option = argument.startswith("--") and name[:1].isalpha()
        if is_option and name not in ("config", "cluster", "print_config", "debug", "help"):
            yield name, text if equals else following


def _as_yaml(text: str) -> Any:  # noqa: ANN401 - any YAML value
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # the latter for what only looks like a date
        return text
