"""The documentation stays true: its commands parse, its make targets exist, its links lead somewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from meditron.cli import VERBS, name_words
from meditron.config.loading import build_parser, parse_recipe

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "THIRD_PARTY.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def shell_lines() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.strip().removeprefix("$ ")
                if command and not command.startswith("#"):
                    yield page, command


def commands_of(name: str) -> list[str]:
    commands = {line for _, line in shell_lines() if re.match(rf"(\.venv/bin/)?{name}\b", line)}
    return sorted(commands)


@pytest.mark.parametrize("command", commands_of("meditron"))
def test_every_meditron_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    verb, *arguments = shlex.split(command, comments=True)[1:]
    if verb.startswith("--"):
        assert verb in ("--help", "--version")
        return
    assert verb in VERBS
    if arguments and arguments[0] in VERBS[verb].actions:
        del arguments[0]
    arguments = name_words(VERBS[verb], arguments)
    if "--help" not in arguments:
        parse_recipe(build_parser("meditron", "", ()), arguments)


@pytest.mark.parametrize("command", commands_of("make"))
def test_every_make_target_exists(command: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = [word for word in shlex.split(command, comments=True)[1:] if "=" not in word]
    assert set(named) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_names_the_two_commands() -> None:
    lines = [line for page, line in shell_lines() if page.name == "README.md"]
    assert "make demo" in lines
    assert "make test" in lines
