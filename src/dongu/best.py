"""The best model of a run: kept whenever it is found, and judged at the end as it lies on the disk."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file, save_model
from safetensors.torch import load_model as load_weights
from torch import Tensor
from transformers import PreTrainedModel

from dongu.baseline import measure_bag_of_words, why_left_out
from dongu.config import ABSTAIN_BELOW, NUMBERS
from dongu.consistency import CHECKED_ROWS
from dongu.data.batches import EvalBatches
from dongu.errors import CheckpointError, ModelError, NonFiniteError, no_panic
from dongu.evaluate import eval_mode, with_weights
from dongu.export.card import base_model, write_card
from dongu.files import disk, replace_folder, write_file
from dongu.judge.abstention import abstained, fit_threshold
from dongu.judge.answers import Evaluation
from dongu.judge.calibration import Calibration, fit_temperature, is_advised
from dongu.judge.intervals import constant_answer, verdict
from dongu.launch import wait_for_first
from dongu.loop import Loop
from dongu.model.head import check_head, divide_head
from dongu.model.load import load_saved, quiet_transformers
from dongu.model.lora import adapter_config, adapter_tensors, added_weights, plain_weights, take_adapter
from dongu.model.safety import check_folder
from dongu.run.checkpoint import RunState
from dongu.run.folder import CALIBRATION, RunFolder, dump_json
from dongu.run.identity import software_versions
from dongu.run.journal import Journal
from dongu.run.predictions import prediction_lines
from dongu.run.tensor_file import Stored, TensorFile

WEIGHTS = "model.safetensors"
ADAPTER, ADAPTER_WEIGHTS = "adapter", "adapter_model.safetensors"  # a folder in the model's, as peft reads it


def save_best(loop: Loop, folder: RunFolder, temperature: float | None = None, *, model: Any = None) -> None:
    """The model as it is now, with its tokenizer and what its head is divided by, in place of the one before.

    All processes call it, and the first one writes. The weights that are kept are those of `model`, if it is given.
    """
    if loop.is_sharded:  # gathered by all
        weights, added = _weights(loop)
    if not loop.accelerator.is_main_process:
        return
    tokenizer = copy.deepcopy(loop.tokenizer)
    tokenizer.model_max_length = loop.config.max_length
    # What a call to it leaves set would be saved too, and there is no call where the tokens come from the cache.
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        backend.no_truncation()
        backend.no_padding()
    kept = with_weights(loop.model, loop.evaluated_model() if model is None else model)
    with replace_folder(folder.model, within=folder.path) as stage, quiet_transformers(), kept:
        if isinstance(loop.model, PreTrainedModel):
            if not loop.is_sharded:
                weights, added = _weights(loop)
            loop.model.save_pretrained(stage, state_dict=weights)
            if loop.config.lora is not None:
                _save_adapter(loop, folder, adapter_tensors(loop.model, added, weights), stage / ADAPTER)
        else:
            save_model(loop.model, str(stage / WEIGHTS))
            loop.model.config.save_pretrained(stage)
        tokenizer.save_pretrained(stage)
        if temperature is not None:
            disk.write(stage / CALIBRATION, dump_json({"temperature": temperature}).encode())


def _weights(loop: Loop) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Those of a model without LoRA, in the unit of the labels, and LoRA's own."""
    numbers = loop.data.task in NUMBERS
    weights = loop.loss.scale.undone(loop.model) if numbers else plain_weights(loop.model)
    return weights, added_weights(loop.model)


def _save_adapter(loop: Loop, folder: RunFolder, tensors: Mapping[str, Tensor], target: Path) -> None:
    """LoRA's matrices in peft's format, beside the model that they are merged into."""
    former = folder.model / ADAPTER / ADAPTER_WEIGHTS
    if former.exists() and not any(tensor.any() for name, tensor in tensors.items() if ".lora_B." in name):
        # The loop has taken over the saved weights, LoRA in them: the head alone is another one, divided say.
        written = load_file(former)
        tensors = {name: written[name] if ".lora_" in name else tensor for name, tensor in tensors.items()}
    target.mkdir()
    save_file(tensors, str(target / ADAPTER_WEIGHTS), metadata={"format": "pt"})
    config = adapter_config(loop.model, loop.config.lora or 0, base_model(loop)[0])
    disk.write(target / "adapter_config.json", dump_json(config, indent=2).encode())


def judge(loop: Loop, folder: RunFolder, state: RunState, journal: Journal) -> dict[str, Any]:
    """Metrics, intervals and baselines of the best model on each labelled split; writes the predictions and the card.

    The model is read back from the run folder first, so the numbers are those of the file that is kept.

    Raises:
        NonFiniteError: there is no best model.
    """
    if state.best_step is None:
        what = f"{loop.metrics.main} was undefined at every evaluation, so no model is the best"
        hint = "does the model give one answer to every row? try another --learning-rate or --metric loss"
        raise NonFiniteError(what, where=str(folder.path), hint=hint)
    began = time.perf_counter()
    main = loop.accelerator.is_main_process
    read_best(loop, folder)
    applied = folder.temperature()  # of a run that was killed after it had calibrated the model
    results: dict[str, Any] = {"best_step": state.best_step, "steps": state.step, "metric": loop.metrics.main}
    if loop.data.task == "multi-label":
        results["threshold"] = loop.model.config.threshold
    validation, temperature, applied = _settle(loop, folder, applied, results)
    calibration = None if applied is None else Calibration(applied, applied=True)
    constant = constant_answer(loop.metrics, loop.splits["train"].targets)
    per_class: list[dict[str, Any]] = []
    labelled = {}
    for name in ["validation", *(name for name in loop.splits if name not in ("train", "validation"))]:
        evaluation = validation if name == "validation" else loop.evaluate(name, model=loop.model)
        if main:
            folder.write_predictions(name, prediction_lines(evaluation, loop.metrics))
        if evaluation.targets is None:
            continue  # hidden labels: predictions only
        labelled[name] = evaluation
        entries = verdict(evaluation, loop.metrics, constant, loop.config.seed)
        error = entries.get("calibration_error", {})
        if name == "validation" and calibration is None and temperature is not None:
            advised = is_advised(len(evaluation.targets), error, temperature)
            calibration = Calibration(temperature, applied=False) if advised else None
        if calibration is not None:
            results["temperature"] = calibration.temperature
            error |= calibration.errors(evaluation.logits, evaluation.targets)
        results[name] = entries
        if (threshold := results.get(ABSTAIN_BELOW)) is not None:
            results["abstained"].append(abstained(evaluation, threshold))
        per_class += [{"split": name, **row} for row in loop.metrics.per_class(evaluation)]
    if per_class:
        results["per_class"] = per_class  # a table: each value of results that is an object is a split
    if main:
        beginning = time.perf_counter()
        if (reason := why_left_out(loop)) is None:
            results["bag_of_words"] = measure_bag_of_words(loop, labelled)
        else:
            results["no_bag_of_words"] = reason
        journal.phase("baseline", seconds := time.perf_counter() - beginning, loop.number)
        began += seconds
        card = write_card(loop, results, software_versions()["dongu"])
        write_file(folder.model / "README.md", card.encode(), within=folder.path)
    journal.phase("judging", time.perf_counter() - began, loop.number)
    return results


def _settle(
    loop: Loop, folder: RunFolder, applied: float | None, results: dict[str, Any]
) -> tuple[Evaluation, float | None, float | None]:
    """The best model's answers to validation, after what is learnt from them has gone into the model that is saved.

    `applied` is the temperature that the saved model's head was divided by already, `results` gets what was learnt.

    Returns:
        The answers, the temperature that fits them, and the one that the head is divided by.
    """
    validation = loop.evaluate(model=loop.model)
    if loop.metrics.task != "single-label" or validation.targets is None:
        return validation, None, applied
    temperature = applied or fit_temperature(validation.logits, validation.targets)
    if loop.config.calibrate and applied is None and temperature is not None:
        divide_head(loop.model, temperature)
        save_best(loop, folder, temperature, model=loop.model)
        validation, applied = loop.evaluate(model=loop.model), temperature
    results["calibrated"] = applied is not None
    if loop.config.abstain is not None:  # by the probabilities that the saved model gives, calibrated or not
        threshold = fit_threshold(validation, loop.config.abstain)
        results |= {ABSTAIN_BELOW: threshold, "abstained": []}
        if threshold is not None:
            setattr(loop.model.config, ABSTAIN_BELOW, threshold)
            save_best(loop, folder, applied, model=loop.model)
    return validation, temperature, applied


def read_best(loop: Loop, folder: RunFolder) -> None:
    """Put the kept model into the loop, as it lies on the disk."""
    if loop.given.model is None:
        if loop.config.base_precision == "4bit":  # or else all weights would be unpacked
            take_adapter(loop.model, load_file(folder.model / ADAPTER / ADAPTER_WEIGHTS))
        saved = saved_weights(loop, folder.model) if loop.accelerator.is_main_process or not loop.is_sharded else ({},)
        wait_for_first()  # of a large model it takes a while
        loop.take_over(*saved)
        return
    with no_panic():
        missing, unknown = load_weights(loop.model, str(folder.model / WEIGHTS), strict=False)
    if unknown or set(missing) - shared_names(loop.model):
        raise ModelError("has other weights than the model", where=str(folder.model))


def saved_weights(loop: Loop, folder: Path) -> tuple[Mapping[str, Tensor], float | None]:
    """The weights of a saved model as transformers would load them, and its threshold, if the task has one.

    A file that has the names and shapes of the loop's model needs no second model, which takes as long as the first
    did, and as much memory. Where the two differ (LoRA, one weight under two names, names that transformers changes),
    transformers finds out which is which, or says what is missing.

    Raises:
        ModelError: the folder is no saved classifier.
    """
    check_folder(folder)
    if loop.data.task != "multi-label" and (folder / WEIGHTS).is_file():
        with suppress(CheckpointError):  # of what is no file of weights, or another: transformers says so
            weights = Stored([TensorFile(folder / WEIGHTS)])
            shapes = {name: shape for name, (shape, _) in weights.shapes().items()}
            if shapes == {name: tensor.shape for name, tensor in loop.model.state_dict().items()}:
                return weights, None
    model = load_saved(folder)
    return model.state_dict(), getattr(model.config, "threshold", None)


def shared_names(model: Any) -> set[str]:
    """Weights that are another one under a second name, which a file holds once."""
    state = model.state_dict(keep_vars=True)
    seen: dict[int, str] = {}
    return {name for name, tensor in state.items() if seen.setdefault(tensor.data_ptr(), name) != name}


def check_calibration(loop: Loop) -> None:
    """Raise `ModelError` if the model has no last layer to fold a temperature into."""
    inputs = EvalBatches(loop.splits["validation"], loop.collate, CHECKED_ROWS)[0].to(loop.accelerator.device)
    inputs.pop("labels", None)
    with eval_mode(loop.engine):
        check_head(loop.model, loop.accelerator.unwrap_model(loop.engine), inputs)
