"""A run as one plain script, with the run's own values and without `dongu`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import AutoConfig, AutoTokenizer, DataCollatorWithPadding
from transformers.pytorch_utils import Conv1D

from dongu.config import LOWER_IS_BETTER, NUMBERS, PROBLEM_TYPES, RunConfig, make_config
from dongu.consistency import CHECKED_ROWS
from dongu.data import order
from dongu.data.examples import read_examples
from dongu.data.holdout import HOLDOUT_FRACTION, first_copies
from dongu.data.sources import read_source
from dongu.eject import plain_metrics as plain
from dongu.eject.head import head_of_script
from dongu.eject.reading import find_reading, write_rows
from dongu.eject.record import check_record
from dongu.eject.spelling import Function, imports_of, literal, literals, mapping, number, source_of, tightened
from dongu.errors import DataError, ModelError, UsageError
from dongu.files import read_regular
from dongu.hub import split_commit
from dongu.loop import Loop
from dongu.model.dropout import dropouts
from dongu.model.head import head_of, initial_std
from dongu.model.layers import layer_depths
from dongu.model.load import quiet_transformers, reads_last_token
from dongu.model.lora import ALPHA, count_beyond, lora_layers
from dongu.model.mean_layer import LAYERS_AND_POOLER, add_mean_layer
from dongu.model.place import PACKAGED, find_model
from dongu.model.probe import PROBE_ROWS, Probe, fit_probe
from dongu.model.scale import UNSCALED
from dongu.own import arguments, why_no_script
from dongu.plain_parts import copied, needs_future, why_not_these
from dongu.run.folder import RunFolder
from dongu.run.identity import differences, identity, other_parts
from dongu.text import one_line, template

SCRIPT = Path(__file__).with_name("script.jinja")
OWN_SOURCE = "    ..."  # stands for the file of parts until the script has its length
MOST_LINES = 200


def eject(
    run: str | Path, name: str = "train.py", parts: str | Path | None = None, rows: str | Path | None = None
) -> str:
    """The script that repeats a run, finished or not.

    It will be in a file of this `name`. The file of the run's own `parts` is copied into it. With `rows`, a folder, the
    rows that the run read are written there, and the script reads them in place of the run's data.

    Raises:
        InputError: the folder is no run, its data, its model or its parts are not there any more or are not what they
            were, or there is something about them that a plain script cannot do.
    """
    folder = RunFolder(Path(run))
    record = folder.check_parts(parts)
    check_record(folder, record)
    if record["options"].get("data") is None:
        hint = "write the rows to a file and train on it: a script reads files"
        raise UsageError("the run's data were in memory", where=str(folder.path), hint=hint)
    if changes := record.get("changes"):
        what = f"was changed after step {changes[0]['step']:,}: {changes[0]['changes'][0]}"
        hint = f"`dongu train --config {folder.path}/run.json --out NEW` trains without a change, to be ejected"
        raise UsageError(what, where=str(folder.path), hint=hint)
    loop = folder.reopen(device="cpu", engine="plain", parts=parts)
    config = make_config(record["options"])
    own = _own_source(loop, record, str(folder.path / "run.json"))
    changed = reversed([*differences(record, identity(loop), loop, str(folder.path / "run.json"))])
    found = {difference.name: difference.text for difference in changed}  # the first of each name
    for part, kind in (("data", DataError), ("model", ModelError)):  # other labels may come of other rows
        if part in found:
            raise kind(found[part], where=str(folder.path), hint=f"put back the {part} that the run read")
    facts = {
        **_data_facts(loop, rows),
        **_model_facts(loop, config),
        **_run_facts(loop, config, record),
        **_own_facts(loop),
    }
    body = template(SCRIPT, literal=literal, number=number).render(o=config, out=f"{folder.path.name}-plain", **facts)
    future = "from __future__ import annotations\n\n" if needs_future(own) else ""
    head = f'"""{head_of_script(record, facts, loop, folder, name)}\n"""\n\n{future}{imports_of(body)}\n\n'
    room = MOST_LINES - head.count("\n") + sum(text.count("\n") + 3 for text in facts["model_functions"])
    *loose, tightest = tightened(f"{body.strip()}\n")
    script = head + next((script for script in loose if script.count("\n") <= room), tightest)
    return script.replace(OWN_SOURCE, copied(own))


def _own_source(loop: Loop, record: Mapping[str, Any], where: str) -> str:
    """The file of the run's own parts; nothing where it has none.

    Raises:
        UsageError: it is another than the run's, or a plain script cannot take it.
    """
    given = loop.given.identity().get("parts")
    if other := [*other_parts(record.get("parts"), given, loop.given.file)]:
        raise UsageError("; ".join(other), where=where, hint="give the file as it was when the run began")
    if why := why_no_script(loop.given, record["options"]["precision"], loop.config.base_precision):
        hint = "what the run saved is a plain model: RUN/model needs no dongu"
        raise UsageError(f"cannot be one plain script: {why}", where=where, hint=hint)
    return "" if loop.given.file is None or given is None else read_regular(loop.given.file, follow=True).decode()


def _own_facts(loop: Loop) -> dict[str, Any]:
    own = loop.given

    def call(part: str, **words: str) -> str:
        if part not in own.names:
            return ""
        places, named = arguments(getattr(own, part), part, **words)
        return f"own_{part}({', '.join([*places, *(f'{name}={word}' for name, word in named.items())])})"

    return {
        "own": own.names,
        "own_file": own.file and one_line(own.file.name),
        "own_source": OWN_SOURCE,
        "own_columns": literals(loop.splits["train"].columns) if own.loss and loop.splits["train"].columns else None,
        "own_loss": f"own_loss({{}}, batch){'.expand(len(labels))' if loop.loss.is_coupled else ''}.float().sum()",
        "own_optimizer": call("optimizer", parameters="dict({}.named_parameters())"),
        "own_lr_scheduler": call("lr_scheduler", step="step", total_steps="len(updates)"),
        "own_order": call("order", split="train_set", epoch="{}", seed="SEED"),
    }


def _data_facts(loop: Loop, rows: str | Path | None) -> dict[str, Any]:
    config, data = loop.config, loop.data
    if refused := why_not_these(data, config, soft=bool(loop.loss.shares)):
        raise UsageError(refused[0], where="dongu eject", hint=refused[1])
    if rows is not None:
        data = write_rows(data, Path(rows))
    reading = find_reading(data, config)
    labels = None if loop.data.task in NUMBERS else literals(loop.data.label_names, before="LABELS = ")
    if labels is not None and "\n" in labels and reading.label_names is not None:
        labels = None  # they are many, and the rows have them
    return {
        "reading": reading,
        "hub": reading.hub and literals(reading.hub, before="HUB = "),
        "paths": mapping(reading.paths, before="DATA = "),
        "texts": literals(reading.texts, before="TEXTS = "),
        "label": None if reading.label_columns else config.label_column,
        "labels": labels,
        "labels_rule": reading.label_names if labels is None and loop.data.task not in NUMBERS else None,
        "held_out": data.held_out,
        "share": config.validation or HOLDOUT_FRACTION,
        "repeats": data.held_out and _repeats(loop),
        "own_ids": data.held_out and loop.data.task not in NUMBERS and _own_ids(loop),
        "pool_batches": order.POOL_BATCHES,
    }


def _own_ids(loop: Loop) -> list[int] | None:
    """By the class id of a model whose order of the labels is not the data's: the class's place in the data's order,
    by which rows were held out."""
    own = read_examples(read_source(loop.config.data, loop.config), loop.config).label_names
    return None if own == loop.data.label_names else [own.index(name) for name in loop.data.label_names]


def _repeats(loop: Loop) -> bool:
    """Whether rows that validation was held out of have the same texts."""
    parts = [loop.data.splits[name].texts for name in ("train", "validation")]
    first = first_copies([[*learnt, *held] for learnt, held in zip(*parts, strict=True)])
    return bool((first != np.arange(len(first))).any())


def _model_facts(loop: Loop, config: RunConfig) -> dict[str, Any]:
    place, model = find_model(config.model), loop.model
    name, commit = (place, None) if Path(place).is_dir() else split_commit(place)
    if package := PACKAGED.get(config.model):
        words = f'Path({package}.__file__).parent / "model"'
    else:
        words = literal(str(Path(place).absolute()) if Path(place).is_dir() else name)
    with quiet_transformers():
        base = AutoConfig.from_pretrained(name, revision=commit)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=commit, model_max_length=config.max_length)
    if base.get_text_config() is not base:
        what = f"`{base.model_type}` has a model of texts within it, which a plain script does not set up"
        raise ModelError(what, where=f"--model {config.model}")
    facts: dict[str, Any] = {
        "model": words,
        "model_commit": commit,
        "pads_with_end": tokenizer.pad_token is None,
        "reads_last_token": reads_last_token(base),
        "pad_in_config": hasattr(base, "pad_token_id") and base.pad_token_id != model.config.pad_token_id,
        "types_wanted": "token_type_ids" in loop.collate.columns or "token_type_ids" not in tokenizer.model_input_names,
        "layers": _layers(model, "--layer-decay") if config.layer_decay < 1 else None,
        "frozen": _layers(model, "--freeze", config.freeze)["frozen"] if config.freeze else None,
        "lora_layers": _lora_layers(model) if config.lora is not None else None,
        "lora_alpha": ALPHA,
        "encoder": f"{model.base_model_prefix}.",
        "transposed": any(isinstance(module, Conv1D) for module in model.modules()),
        "has_dropout": any(dropouts(model.config).values()),
        "dropouts": literals(dropouts(base), before="settings |= dict.fromkeys(, DROPOUT)"),
        "problem_type": PROBLEM_TYPES[loop.data.task],
        "text_columns": literals(model.config.text_columns) if hasattr(model.config, "text_columns") else None,
        "numbers": loop.data.task in NUMBERS,
        "several": loop.data.task == "multi-label",
        "scaled": loop.loss.scale != UNSCALED,
        "scale": loop.loss.scale,
        "replaces_head": model.new_head is not None and model.new_head.replaced,
        "keeps_head": model.new_head is None,
        "initial_std": initial_std(model),
    }
    facts |= _start_facts(loop)
    if (head := head_of(model)) is not None:
        facts |= {"head": head[0], "head_has_bias": head[1].bias is not None}
    if facts["pads_with_end"]:
        tokenizer.pad_token = tokenizer.eos_token
    if facts["reads_last_token"]:
        tokenizer.padding_side = "right"
    _check_inputs(loop, tokenizer, types_wanted=facts["types_wanted"])
    return facts


PROBE_LOSSES: dict[str, str] = {
    "single-label": "F.cross_entropy",
    "multi-label": "lambda logits, flags: len(LABELS) * F.binary_cross_entropy_with_logits(logits, flags)",
    "regression": "lambda logits, numbers: F.mse_loss(logits.squeeze(-1), numbers)",
}


def _start_facts(loop: Loop) -> dict[str, Any]:
    """What was added to the model, and how its head begins."""
    mean, found = loop.config.pooling == "mean", loop.probed.get(loop.config.pooling)
    fits = isinstance(found, Probe)
    functions: list[Function] = [*([add_mean_layer] if mean else []), *([fit_probe] if fits else [])]
    return {
        "mean_layer": literals(LAYERS_AND_POOLER[loop.model.config.model_type]) if mean else None,
        "ridge": found.ridge_for(loop.data.task) if isinstance(found, Probe) else None,
        "probe_rows": PROBE_ROWS,
        "probe_loss": PROBE_LOSSES[loop.data.task],
        "model_functions": [source_of(function) for function in functions],
    }


def _check_inputs(loop: Loop, tokenizer: Any, *, types_wanted: bool) -> None:
    """Make a batch as the script will, beside the run's own.

    Raises:
        ModelError: they are not the same.
    """
    rows = np.arange(min(CHECKED_ROWS, len(loop.splits["train"])))
    texts = [column[: len(rows)] for column in loop.data.splits["train"].texts]
    encoded = tokenizer(*texts, truncation=True, **({} if types_wanted else {"return_token_type_ids": False}))
    ours = DataCollatorWithPadding(tokenizer)([{name: column[i] for name, column in encoded.items()} for i in rows])
    theirs = loop.collate(loop.splits["train"], rows)
    theirs.pop("labels")
    if ours.keys() != theirs.keys() or not all(ours[name].equal(tensor) for name, tensor in theirs.items()):
        what = f"its tokenizer gives a plain script {', '.join(ours)}, and the run had other inputs"
        raise ModelError(what, where=f"--model {loop.config.model}")


def _lora_layers(model: Any) -> str:
    """The pattern of the names of the layers that LoRA stands beside, as peft takes it.

    Raises:
        ModelError: no short one tells them from all others, or peft takes it otherwise.
    """
    names = {name for name, module in model.named_modules() if ".lora_" not in name and ".base_layer" not in name}
    beside = lora_layers(model).keys()
    places = zip(*(name.split(".") for name in beside), strict=False)
    common = ".".join(parts[0] for parts in takewhile(lambda parts: len({*parts}) == 1, places))
    ends = {name.rpartition(".")[2] for name in beside}
    if count_beyond(model) and ends & {"gate_proj", "up_proj", "down_proj"}:
        what = f"peft would put LoRA on the experts of `{model.config.model_type}` too, which the run left as they are"
        raise ModelError(what, where="--lora", hint="what the run saved is a plain model: RUN/model needs no dongu")
    last = "|".join(sorted(ends))
    pattern = rf"{re.escape(common)}\..*\.({last})"
    if {name for name in names if re.fullmatch(pattern, name)} != beside:
        what = f"the names of the layers of `{model.config.model_type}` do not show which of them have LoRA"
        raise ModelError(what, where="--lora", hint="what the run saved is a plain model: RUN/model needs no dongu")
    return f'r"{pattern}"'


def _layers(model: Any, where: str, frozen: int = 0) -> dict[str, str]:
    """The names by which a script tells the layers of parameters: those of a layer, those below the first, and those
    that `frozen` layers leave as they are.

    Raises:
        ModelError: names do not tell them.
    """
    depths, count = layer_depths(model)
    below = {name for name, depth in depths.items() if depth == 0}
    starts = {".".join(name.split(".")[:i]) + "." for name in below for i in range(1, name.count(".") + 1)}
    pure = {start for start in starts if all(name in below for name in depths if name.startswith(start))}
    lowest = tuple(
        sorted(start for start in pure if not any(start != other and start.startswith(other) for other in pure))
    )
    for name, module in model.named_modules():
        prefix = f"{name}."
        if isinstance(module, nn.ModuleList) and depths == {
            name: int(name.removeprefix(prefix).split(".")[0]) + 1
            if name.startswith(prefix)
            else (0 if name.startswith(lowest) else count)
            for name in depths
        }:
            return {
                "prefix": prefix,
                "lowest": literal(lowest[0]) if len(lowest) == 1 else repr(lowest).replace("'", '"'),
                "frozen": literals([*lowest, *(f"{prefix}{i}." for i in range(frozen))], before="FROZEN = "),
            }
    what = f"the names of the parameters of `{model.config.model_type}` do not tell its layers"
    raise ModelError(what, where=where, hint="train without it, and eject that run")


def _run_facts(loop: Loop, config: RunConfig, record: Mapping[str, Any]) -> dict[str, Any]:
    rows, processes, steps = len(loop.splits["train"]), record["processes"], loop.total_steps
    an_epoch, device = loop.steps_per_epoch, record["device"]
    if config.max_steps:
        epochs, cut = "math.ceil(MAX_STEPS / steps_per_epoch)", "MAX_STEPS:"
    elif config.epochs == int(config.epochs):
        epochs, cut = "EPOCHS", None
    else:
        epochs, cut = "math.ceil(EPOCHS)", "math.ceil(EPOCHS * steps_per_epoch) :"
    every = "EVAL_STEPS" if config.eval_steps else "steps_per_epoch"
    at_the_end = "" if steps % (config.eval_steps or an_epoch) == 0 else " or step == len(updates)"
    known = [name for name in loop.metrics.names if name not in loop.given.metrics]
    metrics = {name: plain.METRICS[loop.data.task][name] for name in known}
    functions = dict.fromkeys(function for metric in metrics.values() for function in metric.functions)
    judge = plain.judge_labels_together if record["metric"] == "micro_f1" else plain.judge_labels
    if loop.data.task == "multi-label":
        functions[judge] = None
    weights = literals((record["options"]["class_weights"] or {}).values(), before="CLASS_WEIGHTS = np.array()")
    return {
        "distributed": processes > 1,
        "short": min(config.batch_size, (rows - 1) % config.batch_size + 1) < processes,
        "epochs": epochs,
        "cut": cut,
        "every": every,
        "evaluates": f"step % {every} == 0{at_the_end}",
        "weights": weights,
        "on_cpu": device.startswith("cpu"),
        "bf16": config.precision == "bf16",
        "metric": record["metric"],
        "lower_is_better": LOWER_IS_BETTER,
        "metrics": {name: metric.expression for name, metric in metrics.items()},
        "metric_lines": plain.metric_lines(loop.data.task, known),
        "metric_functions": [source_of(function) for function in functions],
        "judge": judge.__name__,
    }
