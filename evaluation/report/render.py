"""From the page's content to one HTML file that needs nothing else."""

import base64
import hashlib
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import yaml

import meditron
from evaluation.report import numbers, published
from evaluation.report.build import Page
from evaluation.report.diagnostics import reliability_plot
from evaluation.report.flow import facts, flow, stage_rows
from evaluation.report.long_plots import heat_map, long_plots
from evaluation.report.plot import Plot, script_json
from evaluation.report.summary import cards
from evaluation.report.tracks import accuracy_tracks, perplexity_tracks
from meditron.config.loading import recipe_dict

if TYPE_CHECKING:
    from markupsafe import Markup

ASSETS = Path(__file__).parent / "assets"
CLUSTER_SECTIONS = ("launch", "run")
"""Sections of the recipe that the page leaves out: they shape no result, and may hold secrets."""


def render(page: Page, output: Path) -> str:
    """The page as HTML, with links relative to where it will be.

    Everything that comes from files is escaped by the template engine, or stands in a script element as
    JSON without `<`; besides, the page's policy lets no script run but its own.
    """
    style, script = (ASSETS / name for name in ("style.css", "page.js"))
    text: str = _template(output).render(
        page=page,
        version=meditron.__version__,
        style=style.read_text(encoding="utf-8"),
        script=script.read_text(encoding="utf-8"),
        script_hash=script_hash(script.read_bytes()),
        questions=script_json(page.questions),
        has_questions=bool(page.questions),
        cards=cards(page),
        flow=flow(page),
        facts=facts(page),
        stages=stage_rows(page),
        recipe_yaml=_recipe_yaml(page),
        batch_shares=page.pretraining.shares() if page.pretraining else {},
        perplexity_tracks=perplexity_tracks(page.perplexity, page.labels),
        accuracy_tracks=accuracy_tracks(page.tasks, page.labels),
        reliability=_reliability(page),
        long=long_plots(page.tasks, page.perplexity, page.labels),
        maps=[heat_map(row) for row in page.tasks if row.places],
        quoted=[_quoted(page, index) for index in range(len(page.tasks))],
        quoted_source=published.SOURCE,
        paired=any(change.interval for row in page.perplexity for change in row.changes.values()),
        data_json=output.with_suffix(".json"),
        data_csv=output.with_suffix(".csv"),
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # half surrogates, which JSON can spell


def script_hash(script: bytes) -> str:
    """SHA-256 of the page's script, as its Content-Security-Policy names it."""
    return base64.b64encode(hashlib.sha256(script).digest()).decode()


def _template(output: Path) -> Any:  # noqa: ANN401 - jinja2 is imported here only
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(ASSETS, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("count", "short", "significant", "percent", "signed", "duration", "size", "interval"):
        environment.filters[name] = getattr(numbers, name)
    environment.filters["moment"] = moment
    environment.filters["breakable"] = breakable
    environment.filters["href"] = linker(output)
    return environment.get_template("page.html")


def moment(text: str | None) -> str:
    """`2026-11-25T19:05:49+00:00` -> `2026-11-25 19:05:49`, in UTC; what is no time stays as it is."""
    if text is None:
        return "not recorded"
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (TypeError, ValueError):
        return str(text)


def breakable(name: object) -> "Markup":
    """A name, escaped, that may be broken after `_` and `/`."""
    from markupsafe import Markup, escape

    return Markup(re.sub("([_/])", r"\1<wbr>", str(escape(name))))


def linker(output: Path) -> Callable[[str | Path], str | None]:
    """A function from a path to its address relative to the page; None for what is not there.

    The page's own data files are written after it is rendered, so they count as being there.
    """
    own = {output.with_suffix(".json"), output.with_suffix(".csv")}

    def link(path: str | Path) -> str | None:
        path = Path(path)
        if path not in own and not path.exists():
            return None
        relative = os.path.relpath(path.absolute(), output.absolute().parent)
        return quote(relative) + ("/" if path.is_dir() else "")

    return link


def _recipe_yaml(page: Page) -> str:
    everything = page.used_recipe or recipe_dict(page.recipe)
    content = {key: value for key, value in everything.items() if key not in CLUSTER_SECTIONS}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _reliability(page: Page) -> list[Plot]:
    plots = [
        reliability_plot(f"{row.task}, {row.protocol}", row.diagnoses, page.labels) for row in page.tasks
    ]
    return [plot for plot in plots if plot is not None]


def _quoted(page: Page, index: int) -> list[published.Quoted]:
    row = page.tasks[index]
    count = next(iter(row.scores.values())).count
    return published.quoted(row.task, row.group, count, row.chance)
