"""A model as an ONNX graph, with all that it needs to be used without dongu, transformers and torch."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from torch import Tensor, nn

from dongu.data.batches import EvalBatches
from dongu.data.order import epoch_order
from dongu.data.sources import Source
from dongu.data.tokenized import Split
from dongu.errors import ModelError, UsageError
from dongu.evaluate import eval_mode, evaluate
from dongu.export.exported import MODEL, Export, ExportedForm
from dongu.export.onnx import write_int8, write_onnx
from dongu.files import disk, read_regular, refuse_if_taken, replace_folder
from dongu.judge.intervals import verdict
from dongu.judge.paired import paired_differences
from dongu.model.graph import HINT, OnnxModel
from dongu.model.safety import GRAPH, GRAPH_INT8, VOCABULARY_LIMIT
from dongu.use.classifier import Classifier, load
from dongu.use.saved import folds_in
from dongu.waiting import Waiting

COMPARED_ROWS = 1000  # of validation at most: a minute or two for a base model
FULL_BYTES = 1 << 20  # free on a disk that a graph did not fit on
TIMED_ROWS, TIMED_ROUNDS = 32, 5
GRAPH_TOLERANCE = 1e-4  # of the largest logit; what rounding leaves of a right graph is a hundredth of it


def export(
    model: str | Path,
    out: str | Path | None = None,
    source: Source | None = None,
    *,
    int8: bool = False,
    **columns: Any,
) -> Export:
    """Write the folder, as `dongu export` does: at its place it is whole and checked, or not there.

    By default it is `onnx` in the run folder. The `source` are the run's data, where they lie elsewhere now; of a model
    that is no run, labelled rows, with their `text_columns` and `label_column`. With `int8` a graph with weights of
    eight bits is written too.

    Raises:
        InputError: there is no such model, the data of the run are gone, or there is something at `out`.
        ModelError: the model has no ONNX form, or the graph does not answer as the model does.
        StorageError: a file could not be written.
    """
    target = Path(model) / "onnx" if out is None else Path(out)
    refuse_if_taken(target)
    classifier = load(model, device="cpu", engine="plain", precision="fp32", **columns)
    if classifier.saved.others:
        hint = f"name one of them: {', '.join(map(str, folds_in(Path(model))))}"
        raise UsageError("a graph is of one model, and these are several", where=str(model), hint=hint)
    if (long := classifier.config.long) in ("head+tail", "windows"):
        hint = "its model card says in Python how a row is read: RUN/model/README.md"
        raise UsageError(f"a graph reads a row at once, and the run has --long {long}", where=str(model), hint=hint)
    if classifier.metrics.task == "ordinal":
        hint = "the saved model is transformers' own regression; its numbers are rounded by `dongu predict`"
        raise UsageError("an ordinal task has no ONNX form yet", where="dongu export", hint=hint)
    split, texts = _checked_rows(classifier, source)
    with replace_folder(target) as stage:
        (stage / GRAPH).parent.mkdir()
        with Waiting("writing the graph"):
            try:
                write_onnx(classifier.model, _example(classifier, texts), stage / GRAPH)
                if int8:
                    write_int8(stage / GRAPH, stage / GRAPH_INT8)
            except ModelError as error:  # of half a file, which the exporter leaves in silence
                if shutil.disk_usage(stage).free >= FULL_BYTES:
                    raise
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
        made = _measure(classifier, split, target, stage)
        _copy_settings(classifier, stage)
        length = classifier.config.max_length or 0
        abstains = classifier.metrics.task == "single-label" and classifier.threshold > 0
        readme = made.readme(classifier.metrics.task, pair=texts == 2, max_length=length, abstains=abstains)
        disk.write(stage / "README.md", readme.encode())
        refuse_if_taken(target)  # somebody may have come meanwhile
    return made


def _checked_rows(classifier: Classifier, source: Source | None) -> tuple[Split, int]:
    """Validation, or as many of its rows, drawn by the run's seed, and how many texts a row has."""
    saved = classifier.saved
    if saved.run is None and source is not None:
        examples = next(iter(saved.other_examples(source).values()))
    else:
        examples = saved.own_examples("validation", source, "export")["validation"]
    chosen = np.zeros(len(examples), dtype=bool)
    chosen[epoch_order(len(examples), classifier.config.seed, 0)[:COMPARED_ROWS]] = True
    examples = examples.take(chosen)
    return classifier.split(examples.texts, examples.targets, "validation"), len(examples.texts)


def _example(classifier: Classifier, texts: int) -> dict[str, Tensor]:
    """Two rows, one with padding: what a trace has not seen, it may leave out."""
    split = classifier.split([["a", "a a a"]] * texts)
    return classifier.collate(split, np.arange(2))


def _measure(classifier: Classifier, split: Split, target: Path, stage: Path) -> Export:
    model = classifier.model
    weights = sum(path.stat().st_size for path in classifier.saved.path.glob("*.safetensors"))
    models: dict[str, nn.Module] = {MODEL: model}
    models |= {name: OnnxModel(stage / name, model.config) for name in (GRAPH, GRAPH_INT8) if (stage / name).exists()}
    batches = EvalBatches(split, classifier.collate, classifier.config.eval_batch_size, alike=True)
    found = {name: evaluate(each, batches, classifier.accelerator, classifier.metrics) for name, each in models.items()}
    truth = found[MODEL].logits
    differences = {name: float(np.abs(each.logits - truth).max()) for name, each in found.items()}
    largest = float(np.abs(truth).max())
    if not differences[GRAPH] <= GRAPH_TOLERANCE * largest:
        what = f"the graph's logits are up to {differences[GRAPH]:.1e} from the model's, which reach {largest:.3g}"
        raise ModelError(what, where=f"{type(model).__name__} as ONNX", hint=HINT)
    names, seed = ("loss", *classifier.metrics.names), classifier.config.seed
    with Waiting("measuring rows a second"):
        speeds = _speeds(classifier, models, split)
    forms = {
        name: ExportedForm(
            size_bytes=weights if name == MODEL else (stage / name).stat().st_size,
            rows_a_second=speeds[name],
            difference=differences[name],
            same=int((each.predictions == found[MODEL].predictions).reshape(len(split), -1).all(-1).sum()),
            results=verdict(each, classifier.metrics, None, seed),
            lost=paired_differences(found[MODEL], each, names, seed) if name == GRAPH_INT8 else {},
        )
        for name, each in found.items()
    }
    return Export(target, len(split), largest, forms)


def _speeds(classifier: Classifier, models: Mapping[str, nn.Module], split: Split) -> dict[str, float]:
    """Rows a second: the best of a few rounds, in turns, so that what else the machine does slows all of them."""
    inputs = classifier.collate(split, np.arange(min(len(split), TIMED_ROWS)))
    inputs.pop("labels", None)
    seconds = dict.fromkeys(models, float("inf"))
    for _ in range(TIMED_ROUNDS):
        for name, model in models.items():
            with eval_mode(model):
                began = time.perf_counter()
                model(**inputs)
                seconds[name] = min(seconds[name], time.perf_counter() - began)
    return {name: len(inputs["input_ids"]) / max(each, 1e-9) for name, each in seconds.items()}


def _copy_settings(classifier: Classifier, stage: Path) -> None:
    """Labels, threshold and temperature as the saved model has them; the tokenizer, set to cut and to pad."""
    for path in sorted(classifier.saved.path.iterdir()):
        if path.suffix == ".json" and ".safetensors" not in path.suffixes:
            disk.write(stage / path.name, read_regular(path, VOCABULARY_LIMIT))
    tokenizer, collate = classifier.tokenizer, classifier.collate
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.enable_truncation(classifier.config.max_length or 0, direction=tokenizer.truncation_side)
    backend.enable_padding(
        direction=collate.padding_side,
        pad_id=collate.pad_token_id,
        pad_type_id=collate.pad_token_type_id,
        pad_token=tokenizer.pad_token,
    )
    disk.write(stage / "tokenizer.json", backend.to_str(pretty=True).encode())
