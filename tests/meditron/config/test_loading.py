import ast
import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from meditron.config import Recipe
from meditron.config.loading import _nested_dataclass, dump_recipe, load_recipe
from meditron.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_order_is_defaults_file_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 2\nwork_dir: from_file\n")
    recipe = load_recipe(path, ["--seed", "3"])
    assert (recipe.seed, recipe.work_dir, recipe.data_root) == (3, "from_file", None)
    assert recipe.finetune.model == "from_file/model"


def test_dump_reads_back_equal(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "curate:\n  sources:\n    a: {path: x, reader: jats}\n"))
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sed: 1", r"recipe\.yaml: unknown key 'sed'; did you mean 'seed'\?"),
        ("curate: {sorces: {}}", r"unknown key 'curate\.sorces'; did you mean 'sources'\?"),
        (
            "curate: {sources: {a: {path: x, raeder: y}}}",
            r"'curate\.sources\.a\.raeder'; did you mean 'reader'",
        ),
        ("- a\n- b\n", "a recipe maps stages to settings, this is a list"),
        ("a: [", "not valid YAML"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_recipe(write(tmp_path, text))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("shots: many", '"evaluate.tasks.t.shots": Expected a whole number, got many'),
        ("limit: few", '"evaluate.tasks.t.limit": Expected a whole number or null, got few'),
        ("seeds: [1, x]", '"evaluate.tasks.t.seeds": Expected a whole number, got x'),
        ("shots_path: 3", '"evaluate.tasks.t.shots_path": Expected a text, a list or null, got 3'),
        ("columns: {id: [1]}", '"evaluate.tasks.t.columns.id": Expected a text or null, got [1]'),
        (
            "passkey: {text: x}",
            "\"evaluate.tasks.t.passkey.text\": Expected one of 'filler', 'record', got x",
        ),
        ("columns: {qestion: x}", "unknown key 'evaluate.tasks.t.columns.qestion'; did you mean 'question'?"),
    ],
)
def test_mistakes_in_an_entry_name_it(tmp_path: Path, settings: str, sentence: str) -> None:
    tasks = f"{{s: {{format: table, path: x, shots: 0}}, t: {{format: table, path: x, {settings}}}}}"
    path = write(tmp_path, f"evaluate: {{tasks: {tasks}}}")
    with pytest.raises(ConfigError) as said:
        load_recipe(path)
    assert str(said.value).removeprefix(f"{path}: ") == sentence
    with pytest.raises(ConfigError) as said:
        load_recipe(write(tmp_path, "seed: 1"), ["--evaluate.tasks", tasks])
    assert str(said.value).removeprefix("command line: ") == sentence


def test_an_entry_that_lacks_a_setting_or_is_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'^"evaluate\.tasks\.t": lacks format$'):
        load_recipe(write(tmp_path, "evaluate: {tasks: {s: {format: table, path: x}, t: {path: x}}}"))
    with pytest.raises(ConfigError, match=r'^"evaluate\.tasks": Expected a mapping, got 3$'):
        load_recipe(write(tmp_path, "evaluate: {tasks: {t: 3}}"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.work_dir


def config_classes(cls: type) -> set[type]:
    found = {cls}
    for field in fields(cls):
        nested = _nested_dataclass(inspect.get_annotations(cls, eval_str=True)[field.name])[0]
        if nested is not None and is_dataclass(nested):
            found |= config_classes(nested)
    return found


@pytest.mark.parametrize(
    "cls", sorted(config_classes(Recipe), key=lambda c: c.__name__), ids=lambda c: c.__name__
)
def test_every_field_has_a_docstring(cls: type) -> None:
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    for node, following in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            assert documented, f"{cls.__name__}.{ast.unparse(node.target)}"
