"""Tables of the jobs, whole also where a terminal is narrow or what is printed goes into a file."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_UNBOUNDED_WIDTH = 100_000


def print_whole(table: Table) -> None:
    """Print a table as wide as it is, also where the terminal is narrower: a name that is cut cannot be copied."""
    _print(table, _measured(table).maximum)


def print_readable(table: Table) -> None:
    """Print a table no narrower than its longest words: texts are wrapped where they must be, figures never cut."""
    _print(table, _measured(table).minimum)


def _measured(table: Table) -> Measurement:
    console = Console()
    return Measurement.get(console, console.options.update(max_width=_UNBOUNDED_WIDTH), table)


def _print(table: Table, width: int) -> None:
    Console(width=max(Console().width, width)).print(table, soft_wrap=True)
