"""Progress of long steps: bars on a terminal, one plain line a step elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class Steps:
    """A callable (what, done, total), as all long functions of the library take it, to use in a `with` block."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = console
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self.bars = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        self.known: dict[str, int] = {}

    def __enter__(self) -> Steps:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars:
            self.bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self.known:
            self.known[what] = self.bars.add_task(what, total=total) if self.bars else 0
            if not self.bars:
                self.console.print(f"{what} ...", markup=False, highlight=False, soft_wrap=True)
        if self.bars:
            self.bars.update(self.known[what], completed=done, total=total)
