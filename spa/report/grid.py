"""Tables without lines, on a console of any width."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text


def new_table(*columns: str) -> Table:
    """A table without lines; columns that end in > hold numbers."""
    table = Table(show_edge=False, box=None, pad_edge=False)
    for column in columns:
        numbers = column.endswith(" >")
        name = column.removesuffix(" >")
        table.add_column(name, justify="right" if numbers else "left", overflow="fold", no_wrap=numbers)
    return table


def add_row(table: Table, *cells: object) -> None:
    """A row; each cell as its text, markup included as it is."""
    table.add_row(*(Text(str(cell)) for cell in cells))


def print_table(table: Table, console: Console, *, foot: str = "") -> None:
    """The table, a line below it and an empty one; no blanks at the ends of lines, which rich fills up."""
    with console.capture() as captured:
        console.print(table)
    for line in (*captured.get().splitlines(), *filter(None, [foot]), ""):
        console.file.write(f"{line.rstrip()}\n")
