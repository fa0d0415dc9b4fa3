"""What a run tells the person who waits for it."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

# Seconds between lines where the output is no terminal.
_LINE_INTERVAL = 15.0


class Progress:
    """Bar with labels per second and time left; plain lines where there is no terminal.

    Without a console it says nothing.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = Console(quiet=True) if console is None else console
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._total = self._done = self._before = 0
        self._start = self._last_line = 0.0

    def stage(self, text: str) -> None:
        """A part of the run begins."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def records_read(self, count: int) -> None:
        """So many records of the input were read."""
        if count % 100_000 == 0:
            self._console.print(f"{count:,} records read", highlight=False)

    def start_labelling(self, conformers: int, done: int, molecules: int) -> None:
        """Labelling begins; ``done`` conformers were labelled by earlier attempts."""
        again = f", {done:,} of them done before" if done else ""
        self.stage(f"{molecules:,} molecules, up to {conformers:,} conformers{again}")
        self._total, self._done, self._before = conformers, done, done
        self._start = self._last_line = time.monotonic()
        if self._console.is_terminal:
            self._bar = Bar(
                TextColumn("labels"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("labels", total=conformers, completed=done, rate="")
            self._bar.start()

    def batch_done(self, conformers: int) -> None:
        """A batch was committed."""
        self._done += conformers
        now = time.monotonic()
        rate = (self._done - self._before) / max(now - self._start, 1e-9)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=f"{rate:.2f}/s")
        elif now - self._last_line > _LINE_INTERVAL:
            self._last_line = now
            left = (self._total - self._done) / rate
            self.stage(f"{self._done:,} of {self._total:,} labels, {rate:.2f}/s, {left:.0f} s left")

    def end_labelling(self) -> None:
        """All batches are committed."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
