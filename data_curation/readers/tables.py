"""Tables as markdown: spans resolved, one head row, cells on one line."""

from collections.abc import Callable, Iterator

from lxml import etree

from data_curation.readers.maths import name_of

MAX_SPAN = 1000
_ROWS, _CELLS, _TABLES = frozenset(["tr", "row"]), frozenset(["td", "th", "entry"]), frozenset(["table"])


def markdown_table(table: etree._Element, inline: Callable[[etree._Element], str]) -> str:
    """A table as markdown, empty where it has no cell with text.

    Args:
        table: an element whose rows are `tr` (HTML, JATS) or `row` (CALS, CNXML).
        inline: gives a cell's text.
    """
    rows = list(_rows(table))
    grid = _grid(table, rows, inline)
    heads = _head_rows(rows)
    body = [row for row in grid[heads:] if any(row)]
    head = _merged(grid[:heads]) if heads else (body.pop(0) if body else [])
    if not head or not any(map(any, [head, *body])):
        return ""
    return "\n".join([_line(head), "|" + " --- |" * len(head), *map(_line, body)])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _rows(element: etree._Element) -> Iterator[etree._Element]:
    """Rows of this table, not of tables inside its cells."""
    for child in element:
        name = name_of(child)
        if name in _ROWS:
            yield child
        elif name not in _TABLES:
            yield from _rows(child)


def _head_rows(rows: list[etree._Element]) -> int:
    """How many rows at the top are the head: those in `thead`, or else those of `th` cells alone."""
    count = 0
    for row in rows:
        parent = row.getparent()
        cells = {name_of(cell) for cell in row} & _CELLS
        if (parent is None or name_of(parent) != "thead") and cells != {"th"}:
            break
        count += 1
    return count if count < len(rows) else min(count, 1)


def _merged(rows: list[list[str]]) -> list[str]:
    """Head rows as one: "Dose: low" where "low" stands under "Dose"."""
    head = []
    for column in zip(*rows, strict=True):
        distinct = dict.fromkeys(filter(None, column))
        head.append(": ".join(text.rstrip(":") for text in distinct))
    return head


def _grid(
    table: etree._Element, rows: list[etree._Element], inline: Callable[[etree._Element], str]
) -> list[list[str]]:
    """Cells as a full grid: one that spans rows or columns is repeated in each.

    A cell as wide as the table stands in its first column only: it heads the rows below.
    """
    names = [spec.get("colname", "") for spec in table.iter("{*}colspec")]
    grid: list[dict[int, str]] = [{} for _ in rows]
    width = 0
    alone: set[int] = set()
    for y, row in enumerate(rows):
        x = 0
        cells = [cell for cell in row if name_of(cell) in _CELLS]
        for cell in cells:
            while x in grid[y]:
                x += 1
            text = inline(cell)
            across = _across(cell, names)
            down = _number(cell.get("rowspan")) or (_number(cell.get("morerows")) or 0) + 1
            for spanned in grid[y : y + down]:
                spanned.update(dict.fromkeys(range(x, x + across), text))
            x += across
            width = max(width, x)
        if len(cells) == 1:
            alone.add(y)
    full = [[row.get(x, "") for x in range(width)] for row in grid]
    return [
        [row[0], *[""] * (width - 1)] if y in alone and len(set(row)) == 1 and width else row
        for y, row in enumerate(full)
    ]


def _across(cell: etree._Element, names: list[str]) -> int:
    """Columns that a cell spans: `colspan`, or from `namest` to `nameend` of the column names."""
    first, last = cell.get("namest"), cell.get("nameend")
    if first in names and last in names:
        return max(names.index(last) - names.index(first) + 1, 1)
    return _number(cell.get("colspan")) or 1


def _number(value: str | None) -> int | None:
    """A positive number as an attribute gives it, bounded; None for anything else."""
    return min(int(value), MAX_SPAN) if value and value.isdecimal() and int(value) > 0 else None
