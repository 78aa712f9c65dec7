"""What GLUE's server wants: a file of answers for each split with hidden labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dongu.data.glue import GLUE, GlueTask
from dongu.errors import InputError, UsageError
from dongu.files import write_file
from dongu.run.folder import RunFolder
from dongu.run.predictions import saved_lines

HIGHEST_SCORE = 5.0  # of STS-B, whose lowest is 0


def write_submission(run: str | Path, out: str | Path, task: str | None = None) -> list[Path]:
    """GLUE's files of a finished run, in the folder `out`: the best model's answer to each row of the test split.

    The task is by default that of `glue:NAME`; it is given where the run's data are a folder of that shape.

    Raises:
        UsageError: there is no such task, or a file is there already.
        InputError: the run is not finished, has no such split, or answers something else.
        StorageError: a file could not be written.
    """
    folder = RunFolder(Path(run))
    data = str(folder.read_record()["options"]["data"])
    name = task or data.removeprefix("glue:")
    if name not in GLUE:
        hint = f"name the task; GLUE has {', '.join(GLUE)}"
        raise UsageError(f"{name} is not a task of GLUE", where="--glue", hint=hint)
    paths = {split: Path(out) / file for split, file in GLUE[name].files.items()}
    for path in paths.values():
        if path.exists():
            raise UsageError("the file exists", where=str(path), hint="remove it or choose another folder")
    folder.check_written("predictions/")
    contents = {path: "".join(_lines(folder, split, GLUE[name])) for split, path in paths.items()}
    for path, content in contents.items():
        write_file(path, content.encode())
    return list(contents)


def _lines(folder: RunFolder, split: str, task: GlueTask) -> Iterator[str]:
    path = folder.path / "predictions" / f"{split}.jsonl"
    if not path.exists():
        hint = "they are written at the end of a run whose data have that split"
        raise InputError(f"there are no answers for the split {split}", where=str(path), hint=hint)
    yield "index\tprediction\n"
    for number, line in enumerate(saved_lines(path), start=1):
        try:
            yield f"{int(line['id'])}\t{_answer(line['prediction'], task)}\n"
        except (ValueError, TypeError, IndexError, KeyError) as error:
            hint = "was the run trained on another task? dongu predict RUN --glue TASK"
            what = f"{line.get('prediction')!r} is not an answer"
            raise InputError(what, where=f"{path}:{number}", hint=hint) from error


def _answer(prediction: str | float, task: GlueTask) -> str:
    """A class by its name or id, as the server wants it, or a score within its range."""
    if isinstance(prediction, str) and task.labels:
        label = prediction if prediction in task.labels else task.labels[int(prediction)]
        return label if task.names_handed_in else str(task.labels.index(label))
    if isinstance(prediction, float) and not task.labels:
        return f"{min(max(prediction, 0.0), HIGHEST_SCORE):.3f}"
    raise TypeError
