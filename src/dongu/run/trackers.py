"""A run's numbers, handed on to trackers through Accelerate; to none unless asked."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from dongu.config import RunConfig
from dongu.errors import UsageError
from dongu.run.folder import TENSORBOARD, TRACKING, RunFolder
from dongu.run.spared import tried

if TYPE_CHECKING:  # whether a tracker is installed is asked before torch is loaded
    from dongu.judge.answers import Evaluation
    from dongu.loop import Loop
    from dongu.run.console import Console
    from dongu.update import Step


class Trackers:
    """Those of a run; none on any but the main process. One that fails is left out from then on, and the run goes on.

    What trackers call hyperparameters are the run's options. `step` is the last one that was made before: what a
    tracker has of later ones is of a run that was killed.

    Raises:
        UsageError: a tracker cannot be started.
    """

    def __init__(self, loop: Loop, folder: RunFolder, console: Console, *, step: int) -> None:
        self._console = console
        self._trackers: list[Any] = []
        names = loop.config.track or () if loop.accelerator.is_main_process else ()
        if not names:
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        new = {"id": uuid.uuid4().hex, "trackers": []}
        known = folder.read_json(TRACKING) if (folder.path / TRACKING).exists() else new
        # TensorBoard comes last: it writes into the run folder, which stays empty where another one cannot be started.
        for name in sorted(names, key=lambda name: name == "tensorboard"):
            try:
                tracker = LOGGER_TYPE_TO_CLASS[name](**_identity(name, loop, folder, known, step))
                tracker.start()
                if name not in known["trackers"]:
                    tracker.store_init_configuration(_hyperparameters(loop.config))
            except Exception as error:  # each tracker has errors of its own
                self.close()
                what = f"cannot be started ({type(error).__name__}: {error})"
                raise UsageError(what, where=f"--track {name}", hint="leave it out, or fix what it says") from error
            self._trackers.append(tracker)
            if name == "mlflow":  # it names its runs itself
                known["mlflow"] = tracker.tracker.info.run_id
        known["trackers"] = sorted({*known["trackers"], *names})
        folder.write_json(TRACKING, known)

    def step(self, step: Step) -> None:
        names = ("loss", "learning_rate", "grad_norm", "epoch")
        self._log({f"train/{name}": getattr(step, name) for name in names}, step.number)

    def record(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of the user's own."""
        self._log(dict(numbers), step)

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        self._log({f"{evaluation.split}/{name}": value for name, value in evaluation.metrics.items()}, step)

    def close(self) -> None:
        """Write or send what is left."""
        for tracker in self._trackers:
            _, reason = tried(tracker.finish)
            if reason:
                self._console.warn(f"{tracker.name} did not end well ({reason})")
        self._trackers = []

    def _log(self, values: dict[str, float], step: int) -> None:
        for tracker in [*self._trackers]:
            _, reason = tried(partial(tracker.log, values, step=step))
            if reason:
                self._trackers.remove(tracker)
                self._console.warn(f"{tracker.name} failed at step {step:,} ({reason}); the run continues without it")


def _identity(name: str, loop: Loop, folder: RunFolder, known: dict[str, Any], step: int) -> dict[str, Any]:
    """What a tracker wants to know to open a run, or to open it again: a project a data set, a run a run folder."""
    project, run = loop.data.name, folder.path.resolve().name
    arguments: dict[str, dict[str, Any]] = {
        # Files of its own, RUN/tensorboard; points from `purge_step` on, of a run that was killed, are not shown again.
        "tensorboard": {"run_name": TENSORBOARD, "logging_dir": folder.path, "purge_step": step + 1},
        "wandb": {"run_name": project, "name": run, "id": known["id"], "resume": "allow"},
        "mlflow": {"experiment_name": project, "run_name": run, "run_id": known.get("mlflow")},
        "trackio": {"run_name": project, "name": f"{run}-{known['id'][:8]}", "resume": "allow"},
    }
    return arguments[name]


def _hyperparameters(config: RunConfig) -> dict[str, bool | int | float | str]:
    """Options that have a value; several of them as JSON."""
    options = config.model_dump(mode="json", exclude_none=True)
    return {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in options.items()}
