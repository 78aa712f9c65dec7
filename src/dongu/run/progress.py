"""How far a run is: a table with a row an evaluation, and what comes between its rows."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm

from dongu.text import WIDTH, clock, decimals
from dongu.waiting import Waiting, idle

if TYPE_CHECKING:
    from dongu.run.console import Console
    from dongu.update import Step  # which loads torch

PLAIN_ROWS = 10  # between the evaluations of a whole run, at most, where the output is no terminal
PLAIN_SECONDS = 30.0  # between two of them, at least
NOTEBOOK_SECONDS = 0.5  # between two states of a bar
_LEAST_SECONDS = 1e-9  # of all steps: a clock may stand still
_WIDTH = 8  # columns of a number
BAR = "{n_fmt}/{total_fmt} {bar} {desc}"


class Progress:
    """A row an evaluation: its metrics beside the mean loss of the steps since the row before.

    Between them a bar, or a few rows with speed and time left where the stream is neither a terminal nor a notebook's.
    """

    def __init__(self, console: Console, total_steps: int, done: int, metrics: Sequence[str]) -> None:
        self.console = console
        self._total_steps, self._first_step = total_steps, done
        self._metrics = {name: max(_WIDTH, len(name)) for name in ("loss", *metrics)}
        self._wide = max(4, len(f"{total_steps:,}"))
        self._headed = False
        self._started = self._shown = time.perf_counter()
        self._examples = 0
        self._seconds = 0.0  # of steps alone: evaluations and saves would make it the speed of something else
        self._losses: list[float] = []  # since the last row
        terminal, notebook = console.stream.isatty(), type(console.stream).__module__ == "ipykernel.iostream"
        bar: dict[str, Any] = {"total": total_steps, "initial": done, "bar_format": BAR}
        self._bar: Any = None
        self._waiting = idle()
        if console.enabled and terminal:
            self._bar = tqdm(file=console.stream, dynamic_ncols=True, **bar)
            self._waiting = Waiting("", redraw=self._bar.refresh)
        elif console.enabled and notebook:
            self._bar = _NotebookBar(file=io.StringIO(), ascii=False, ncols=WIDTH, mininterval=NOTEBOOK_SECONDS, **bar)

    def step(self, step: Step) -> None:
        self._examples += step.examples
        self._seconds += step.seconds
        self._losses.append(step.loss)
        now = time.perf_counter()
        left = (now - self._started) / (step.number - self._first_step) * (self._total_steps - step.number)
        pace = f"{self._examples / max(self._seconds, _LEAST_SECONDS):.1f} examples/s  {clock(left)} left"
        if self._bar is not None:
            recent = self._losses[-25:]
            self._bar.set_description_str(f"loss {sum(recent) / len(recent):.4f}  {pace}", refresh=False)
            self._bar.update(step.number - self._bar.n)
        elif self._is_tenth(step.number) and now - self._shown >= PLAIN_SECONDS:
            self._row(step.number, step.epoch, pace)

    def evaluation(self, step: int, epoch: float, metrics: Mapping[str, float], *, best: bool) -> None:
        values = "  ".join(f"{decimals(metrics[name]):>{wide}}" for name, wide in self._metrics.items())
        self._row(step, epoch, values + ("  kept" if best else ""))

    def _is_tenth(self, number: int) -> bool:
        return number < self._total_steps and number * PLAIN_ROWS // self._total_steps > (
            (number - 1) * PLAIN_ROWS // self._total_steps
        )

    def _row(self, step: int, epoch: float, text: str) -> None:
        """The head of the table goes before its first row, so that nothing stands between them."""
        if not self._headed:
            names = "  ".join(f"{name:>{wide}}" for name, wide in self._metrics.items())
            self.console.line()
            self.console.line(f"{'':>{self._wide}}  {'':>5}  {'train':>{_WIDTH}} │ validation")
            self.console.line(f"{'step':>{self._wide}}  epoch  {'loss':>{_WIDTH}} │ {names}")
            self._headed = True
        mean = decimals(sum(self._losses) / len(self._losses)) if self._losses else "–"
        self.console.line(f"{step:>{self._wide},}  {epoch:>5.2f}  {mean:>{_WIDTH}} │ {text}")
        self._losses.clear()
        self._shown = time.perf_counter()

    def __enter__(self) -> Self:
        self._waiting.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.__exit__()
        if self._bar is not None:
            self._bar.leave = False  # the table has said it all
            self._bar.close()


class _NotebookBar(tqdm):  # type: ignore[misc]
    """A bar below the cell of a notebook: one output that is replaced, of which a saved notebook has the last state."""

    def __init__(self, **options: Any) -> None:
        from IPython.display import display

        self._output = display({"text/plain": ""}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        super().__init__(**options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:  # noqa: ARG002 - it has one place
        self._output.update({"text/plain": str(self) if msg is None else msg}, raw=True)
