"""Parts of one's own: each contract is checked, and what cannot hold is said."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
    BertTokenizerFast,
    DataCollatorWithPadding,
    get_linear_schedule_with_warmup,
)

import dongu
from dongu.cli.main import run as run_command
from dongu.errors import ModelError, StorageError, UsageError
from dongu.judge.intervals import verdict
from dongu.own import take_own
from dongu.run.folder import RunFolder

Rows = Callable[..., list[dict[str, str]]]


@pytest.fixture
def splits(make_rows: Rows) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [{**row, "age": i / count, "weight": 1 + i % 3} for i, row in enumerate(make_rows(count, seed=count))]
        for name, count in {"train": 22, "validation": 12, "validation:hard": 6}.items()
    }


def per_row(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model(**batch.inputs).logits.float(), batch.labels, reduction="none")


def mean(model: Any, batch: Any) -> Tensor:
    return per_row(model, batch).mean()


@dongu.coupled
def coupled_mean(model: Any, batch: Any) -> Tensor:
    return per_row(model, batch).mean()


def half(parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for name, p in parameters.items() if "classifier" not in name], lr=0.1)


def frozen(loop: Any) -> None:
    loop.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD([torch.zeros(1)], lr=1), lambda step: 1.0)


def unmade(loop: Any) -> None:
    loop.optimizer = torch.optim.SGD


def weighed(model: Any, batch: Any) -> Tensor:
    weights: Tensor = batch.columns["weight"]
    return per_row(model, batch) * weights / weights.mean()


def without_gradient(model: Any, batch: Any) -> Tensor:
    with torch.no_grad():
        return per_row(model, batch)


class Tempered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, model: Any, batch: Any) -> Tensor:
        return per_row(model, batch) * self.scale


class Plain(nn.Module):
    """A bag of words; `wide` gives it columns beyond the labels, `mixes` a batch norm."""

    def __init__(self, labels: int, wide: int = 0, kind: Any = None, mixes: bool = False) -> None:
        super().__init__()
        self.words, self.kind = nn.Embedding(100, 8), kind
        self.norm = nn.BatchNorm1d(8) if mixes else nn.Identity()
        self.head = nn.Linear(8, labels + wide)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        mean = (self.words(input_ids) * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        logits = self.head(self.norm(mean))
        return logits if self.kind is None else self.kind(logits)


class Hidden(Plain):
    """With layers in a list, which PyTorch does not see."""

    def __init__(self, labels: int) -> None:
        super().__init__(labels)
        self.more = [nn.Linear(labels, labels)]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.more[0](super().forward(input_ids, attention_mask))


def stepping_twice(loop: Any, update: Any) -> None:
    update.backward().step()
    loop.lr_scheduler.step()


def with_a_number(loop: Any) -> None:
    loop.own["count"] = 3


def with_a_function(loop: Any) -> None:
    loop.loss = per_row


def stepping_by_itself(loop: Any, update: Any) -> None:
    update.backward()
    loop.optimizer.step()
    update.step()


def by_mask(model: Any, batch: Any) -> Tensor:
    mask: Tensor = batch.inputs["attention_mask"]
    return per_row(model, batch) * mask.sum(1)


def unlabelled(split: Any, rows: Any) -> dict[str, Tensor]:
    longest = int(split.tokens.lengths[rows].max())
    return {name: torch.ones(len(rows), longest, dtype=torch.int64) for name in ("input_ids", "attention_mask")}


def by_rows(other: Callable[[Any], Any]) -> Callable[..., dict[str, Tensor]]:
    def collate(split: Any, rows: Any) -> dict[str, Tensor]:
        return {**unlabelled(split, other(rows)), "labels": torch.from_numpy(split.targets[other(rows)])}

    return collate


def by_rows_but(**changes: Any) -> Callable[..., dict[str, Tensor]]:
    """A collate that gives some of the tensors otherwise, or not."""

    def collate(split: Any, rows: Any) -> dict[str, Tensor]:
        whole = by_rows(lambda rows: rows)(split, rows)
        return {
            name: changes.get(name, lambda x: x)(x) for name, x in whole.items() if changes.get(name, 1) is not None
        }

    return collate


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a loss that is a mean": ({"loss": mean}, r"gives a tensor of float32 and shape \(\) for 8 rows"),
    "a loss that is no tensor": (
        {"loss": lambda model, batch: 1.0},
        r"gives a float for 8 rows, not a float tensor of shape \(8,\)",
    ),
    "a coupled loss that would be split": ({"loss": coupled_mean, "micro_batch_size": 4}, "cannot be split"),
    "a loss that weighs a row by the others": (
        {"loss": weighed, "columns": ["weight"]},
        "when the other rows of the batch differ",
    ),
    "a loss without a gradient": ({"loss": without_gradient}, "has no gradient"),
    "a loss whose parameters nobody trains": (
        {"loss": Tempered()},
        r"a parameter of shape \(\) that loop.model does not",
    ),
    "a loss that is assigned": ({"setup": with_a_function}, "a function is not a loss for a run"),
    "layers that are no part of the model": ({"model": Hidden}, r"a parameter of shape \(2, 2\)"),
    "logits for other labels": ({"model": lambda labels: Plain(labels, wide=3)}, r"shape \(8, 5\), not \(8, 2\)"),
    "an answer without logits": (
        {"model": lambda labels: Plain(labels, kind=lambda x: (x,))},
        "a tuple without logits",
    ),
    "a schedule that is stepped twice": ({"update": stepping_twice}, "was stepped 2 times"),
    "an order that is another one each time": (
        {"order": lambda split: np.random.default_rng().permutation(22)},
        "order: gives other rows each time",
    ),
    "an order of no rows": ({"order": lambda epoch: []}, "gives a list, not the positions of at least one row"),
    "an order that is a generator": (
        {"order": lambda epoch: iter(range(22))},
        "gives a range_iterator, not the positions",
    ),
    "a schedule that gives no number": (
        {"lr_scheduler": lambda step: float("nan") if step else 1},
        "update 2: has the learning rate nan",
    ),
    "a schedule that gives less than 0": ({"lr_scheduler": lambda step: 1 - step}, "learning rate -5e-05"),
    "pooling of a model of one's own": ({"model": Plain, "pooling": "mean"}, "--pooling: the model is your own"),
    "a head of a model of one's own": ({"model": Plain, "head": "probe"}, "--head: the model is your own"),
    "layers of a model of one's own": ({"model": Plain, "layer_decay": 0.9}, "--layer-decay: the model is your own"),
    "a column that is an input": ({"columns": ["age", "labels"], "loss": per_row}, "--columns labels: a model's own"),
    "an optimizer that steps by itself": ({"update": stepping_by_itself}, "loop.optimizer, update 1: has stepped by"),
    "a collate that sorts rows": ({"collate": by_rows(np.sort)}, "collate: gives the rows in another order"),
    "a collate that drops rows": (
        {"collate": by_rows(lambda rows: rows[:7])},
        r"shape \(7, .*\) as `input_ids`, not of shape \(8, tokens\)",
    ),
    "a collate that gives nothing": (
        {"collate": lambda split, rows: None},
        "collate: gives None, not a dict of tensors",
    ),
    "a collate of arrays": (
        {"collate": lambda split, rows: {name: x.numpy() for name, x in unlabelled(split, rows).items()}},
        "collate: gives an array of int64 and shape .* as `input_ids`, not a tensor",
    ),
    "a collate of one row": (
        {"collate": lambda split, rows: {name: x[0] for name, x in unlabelled(split, rows).items()}},
        r"collate: gives a tensor of .* as `input_ids`, not of shape \(1, tokens\)",
    ),
    "a collate of ids that are floats": (
        {"collate": lambda split, rows: {name: x.float() for name, x in unlabelled(split, rows).items()}},
        "as `input_ids`, not token ids of int64",
    ),
    "a collate without labels": ({"collate": unlabelled}, "collate: gives 0 labels for 8 rows"),
    "a collate of labels alone": (
        {"collate": by_rows_but(input_ids=None, attention_mask=None)},
        "collate: gives `labels`, and no `input_ids`\ngive what the model reads, by name",
    ),
    "a collate of ids that the model does not know": (
        {"collate": by_rows_but(input_ids=lambda ids: ids + 10**6)},
        r"collate: gives `input_ids` from 1000001 to 1000001, and the model knows 0 to \d+\ngive ids of the run's",
    ),
    "a collate of ids below 0": ({"collate": by_rows_but(input_ids=lambda ids: ids - 5)}, "from -4 to -4"),
    "a collate of another mask": (
        {"collate": by_rows_but(attention_mask=lambda mask: mask[:, :2])},
        r"as `attention_mask`, and `input_ids` of shape \(1, ",
    ),
    "a collate of classes that are none": (
        {"collate": by_rows_but(labels=lambda labels: labels + 7)},
        r"int64 and shape \(8,\) up to 8 as `labels`, not a class of 0 to 1 a row",
    ),
    "a collate of labels that are floats": (
        {"collate": by_rows_but(labels=lambda labels: labels.float())},
        r"a tensor of float32 and shape \(8,\) up to 1 as `labels`",
    ),
    "a loss that reads the mask": ({"loss": by_mask}, r"loss, step 1: KeyError: 'attention_mask'\n.*engine=\"plain\""),
    "a loss that reads the encoder": (
        {"loss": lambda model, batch: model.bert(**batch.inputs).pooler_output.sum(-1)},
        r"AttributeError: .*\n.*engine=\"plain\"",
    ),
    "a number that has the name of the step": (
        {"update": lambda loop, update: update.record(step=1)},
        "record: each line of the log has `step`",
    ),
    "state that is a number": ({"setup": with_a_number}, "an int has no state_dict"),
    "an optimizer that asks for the loss": ({"optimizer": lambda named: torch.optim.LBFGS(named.values())}, "closure"),
    "an optimizer without the head": ({"optimizer": half}, "does not have `classifier.weight`"),
    "no optimizer": ({"optimizer": lambda parameters: None}, "gave None"),
    "a schedule of another optimizer": ({"setup": frozen}, "it drives another optimizer"),
    "a schedule that is a number": ({"lr_scheduler": 0.5}, "a float is not a function"),
    "an order of other lengths": ({"order": lambda split, epoch: np.arange(8 + epoch)}, "not 8 positions of rows"),
    "an order of rows that are not there": ({"order": lambda split, epoch: np.arange(30)}, "rows 0 to 29, of 22"),
    "a rate that the optimizer does not know": (
        {"optimizer": lambda parameters: torch.optim.SGD(parameters.values(), lr=1), "learning_rate": 1e-3},
        "--learning-rate",
    ),
    "weights of classes": ({"loss": per_row, "class_weights": "balanced"}, "--class-weights"),
    "a metric that is none": ({"metric": "kappa"}, "--metric"),
    "a column that is not there": ({"columns": ["height"]}, "there is no column `height`"),
    "a column of texts": ({"columns": ["text"]}, "which is not a number"),
    "an update that is not made": ({"update": lambda loop, update: update.backward()}, "update 1.* was not made"),
    "an update without a gradient": ({"update": lambda loop, update: update.step()}, "has no gradient yet"),
    "an optimizer's class": ({"optimizer": torch.optim.SGD}, "optimizer=: the class SGD is not a function"),
    "a part of it": ({"optimizer": partial(torch.optim.SGD, lr=1)}, "optimizer=: the class SGD is not a function"),
    "a schedule that gives several shares": (
        {"lr_scheduler": lambda step: np.ones(2)},
        r"lr_scheduler: gave an array of float64 and shape \(2,\)",
    ),
    "a number that is none": (
        {"update": lambda loop, update: update.record(a="x")},
        "record: `a` is a str, not a number",
    ),
    "a loss of whole numbers": (
        {"loss": lambda model, batch: per_row(model, batch).long()},
        r"gives a tensor of int64 and shape \(8,\) for 8 rows",
    ),
    "a loss that reads what no batch has": (
        {"loss": lambda model, batch: model(batch.texts)},
        "no attribute 'texts'\n.*it has inputs, labels, rows, columns",
    ),
    "a schedule's class": ({"lr_scheduler": torch.optim.lr_scheduler.StepLR}, "=: the class StepLR is not a function"),
    "a schedule of transformers": (
        {"lr_scheduler": get_linear_schedule_with_warmup},
        "lr_scheduler=: get_linear_schedule_with_warmup of transformers is called otherwise",
    ),
    "a schedule without a share": ({"lr_scheduler": lambda step: None}, "lr_scheduler: gave None"),
    "a loss's class": ({"loss": nn.CrossEntropyLoss}, "loss=: the class CrossEntropyLoss is not a function"),
    "a loss of torch": ({"loss": nn.CrossEntropyLoss()}, "loss=: CrossEntropyLoss of torch is called otherwise"),
    "a function of torch": ({"loss": F.cross_entropy}, "loss=: cross_entropy of torch is called otherwise"),
    "a metric that is not a function": ({"metrics": {"f1": object()}}, r"metrics\['f1'\]: an object is not a function"),
    "a metric of two arguments": ({"metrics": {"mine": lambda a, b: 1.0}}, r"metrics\['mine'\]: takes other arg"),
    "metrics without names": ({"metrics": [len]}, "metrics=: a list has no names"),
    "a tokenizer's class": ({"tokenizer": BertTokenizerFast}, "tokenizer=: the class .* is not a tokenizer"),
    "a tokenizer that is none": ({"tokenizer": str.split}, "tokenizer=: a method_descriptor is not a tokenizer"),
    "a model's class": (
        {"model": BertForSequenceClassification},
        "model=: BertForSequenceClassification of transformers is called otherwise",
    ),
    "a layer's class": ({"model": nn.Linear}, "model=: Linear of torch is called otherwise"),
    "a collator of transformers": (
        {"collate": DataCollatorWithPadding(None)},
        "collate=: DataCollatorWithPadding of transformers is called otherwise",
    ),
    "an update of no arguments": ({"update": lambda: None}, "update=: takes other arguments"),
    "a model that is evaluated and is none": ({"eval_model": lambda loop: 3}, "eval_model: gave an int"),
    "an optimizer's class in its place": ({"setup": unmade}, "loop.optimizer: a type is not an optimizer"),
    "a function that mixes the names up": ({"order": lambda rows, seed: np.arange(22)}, "has `seed` where `epoch` is"),
    "a function of too many arguments": ({"lr_scheduler": lambda a, b, c: 1.0}, "takes 3 arguments"),
}


@pytest.mark.cases(test=24, ci=63)
@pytest.mark.parametrize("case", REFUSED)
def test_a_breach_is_an_error_that_names_it(case: str, splits: Any, tiny_model: Callable[..., str]) -> None:
    options, said = REFUSED[case]

    def trained() -> None:
        told = {"model": tiny_model(), "tokenizer": tiny_model(), "text_columns": "text"}
        loop = dongu.Loop(splits, **{**told, **options})
        list(loop)
        loop.evaluate()

    with pytest.raises((UsageError, dongu.DonguError), match=said):
        trained()


def test_a_loss_with_parameters_that_are_given_to_the_optimizer(splits: Any, tiny_model: Callable[..., str]) -> None:
    loss = Tempered()

    def setup(loop: Any) -> None:
        loop.optimizer.add_param_group({"params": [*loss.parameters()], "lr": 0.1})
        loop.own["loss"] = loss

    list(dongu.Loop(splits, model=tiny_model(), text_columns="text", loss=loss, setup=setup, epochs=1))
    assert loss.scale.item() != 1


def test_what_does_not_hold_is_no_promise(
    splits: Any, tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    """Each `no` was a `yes`, while a run with such parts was another one when it was split, resumed or ejected."""
    told: Any = {"model": tiny_model(), "tokenizer": tiny_model(), "max_steps": 1}
    (tmp_path / "mine.py").write_text("def lr_scheduler(step, total_steps):\n    return 1.0\n")
    both = dongu.Loop(splits, text_columns="text", parts=tmp_path / "mine.py", loss=per_row, **told)
    assert both.promises["replay"] == "no: loss came from no file"

    assigned = dongu.Loop(data_folder(train=40, validation=0, test=0), **told)
    assert assigned.promises["replay"] == assigned.promises["eject"] == "yes"
    assigned.optimizer = torch.optim.SGD(assigned.model.parameters(), lr=0.1)
    assert assigned.promises["replay"] == assigned.promises["eject"] == "no: loop.optimizer came from no file"

    for mixes in (False, True):
        told["model"] = lambda labels, mixes=mixes: Plain(labels, mixes=mixes)
        loop = dongu.Loop(splits, text_columns="text", **told)
        assert loop.promises["split"] == ("no: `norm` takes means over the rows of a forward pass" if mixes else "yes")

    def watched(loop: Any) -> None:
        loop.model.bert.encoder.register_forward_hook(lambda *_: None)

    told |= {"model": tiny_model(), "out": str(tmp_path / "run")}
    with pytest.warns(UserWarning, match="the plain engine computes from here on"):
        dongu.train(splits, text_columns="text", setup=watched, quiet=True, **told)
    written = json.loads((tmp_path / "run" / "run.json").read_text())["promises"]
    assert written["padding_free"].startswith("no: `bert.encoder` has a hook")


@pytest.mark.parametrize(
    "order",
    [
        lambda epoch: np.roll(np.arange(22), epoch),
        lambda seed, epoch: np.roll(np.arange(22), epoch + seed - 42),
        lambda split, epoch, seed: np.roll(np.arange(len(split)), epoch),
        lambda rows, number: np.roll(np.arange(len(rows)), number),
        lambda epoch, by=1: np.roll(np.arange(22), by * epoch),
        lambda rows, number, by=1: np.roll(np.arange(len(rows)), by * number),
    ],
)
def test_an_order_names_what_it_wants(order: Any, splits: Any, tiny_model: Callable[..., str]) -> None:
    steps = list(dongu.Loop(splits, model=tiny_model(), text_columns="text", order=order, epochs=2))
    assert steps[0].rows.tolist() == list(range(8))
    assert steps[3].rows.tolist() == [21, *range(7)]


def test_a_coupled_loss_is_computed_whole(splits: Any, tiny_model: Callable[..., str]) -> None:
    losses = [
        [step.loss for step in dongu.Loop(splits, model=tiny_model(), text_columns="text", max_steps=3, loss=loss)]
        for loss in (coupled_mean, per_row)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    loop = dongu.Loop(splits, model=tiny_model(), text_columns="text", loss=coupled_mean)
    assert loop.promises["split"].startswith("no: ")
    assert loop.promises["eject"] == "no: loss came from no file"
    assert loop.promises["replay"] == "no: loss came from no file"


def test_a_step_is_one_line(splits: Any, tiny_model: Callable[..., str]) -> None:
    loop = dongu.Loop(splits, model=tiny_model(), text_columns="text", epochs=2)
    step = next(iter(loop))
    said = f"<Step 1: epoch {step.epoch:.2f}, loss {step.loss:.4f}, learning rate {step.learning_rate:.3g}, 8 examples,"
    assert repr(step) == f"{said} {step.tokens} tokens>"


def test_eject_is_promised_as_it_keeps(
    splits: Any, tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    told: Any = {"model": tiny_model(), "max_steps": 1}
    assert dongu.Loop(splits, text_columns="text", **told).promises["eject"] == "no: the run's data were in memory"
    whole = data_folder(train=40, validation=0, test=0)
    assert dongu.Loop(whole, **told).promises["eject"] == "yes"
    cut = dongu.Loop(whole, test=0.2, **told)
    assert cut.promises["eject"] == "yes, with --rows FOLDER: it does not hold rows out by --test"
    long = dongu.Loop(whole, long="windows", **told)
    assert long.promises["eject"].startswith("no: ")


def test_the_builtin_loss_written_out_gives_the_same_updates(splits: Any, tiny_model: Callable[..., str]) -> None:
    for size in (8, 3):
        plain, own = (
            dongu.Loop(splits, model=tiny_model("bert", 0.1), text_columns="text", micro_batch_size=size, loss=loss)
            for loss in (None, per_row)
        )
        for one, other in zip(plain, own, strict=True):
            assert other.loss == pytest.approx(one.loss, rel=1e-6)
            assert other.row_losses == pytest.approx(one.row_losses, rel=1e-5)


def test_two_statements_are_what_the_loop_is(splits: Any, tiny_model: Callable[..., str]) -> None:
    short, long = (dongu.Loop(splits, model=tiny_model("bert", 0.1), text_columns="text") for _ in range(2))
    steps = list(short)
    made = [update.backward().step() for update in long.updates()]
    assert [step.loss for step in made] == [step.loss for step in steps]
    for one, other in zip(short.model.parameters(), long.model.parameters(), strict=True):
        assert one.equal(other)


def test_columns_come_in_the_order_of_the_rows(splits: Any, tiny_model: Callable[..., str]) -> None:
    seen: list[tuple[int, float, float]] = []

    def noted(model: Any, batch: Any) -> Tensor:
        columns = (batch.columns[name].tolist() for name in ("age", "weight"))
        if model.training:  # before the first update it is asked about a few rows in eval mode
            seen.extend(zip(batch.rows.tolist(), *columns, strict=True))
        return per_row(model, batch)

    list(dongu.Loop(splits, model=tiny_model(), text_columns="text", columns=["age", "weight"], loss=noted, epochs=1))
    assert sorted(row for row, _, _ in seen) == list(range(22))
    for row, age, weight in seen:
        assert age == pytest.approx(splits["train"][row]["age"])
        assert weight == splits["train"][row]["weight"]


@pytest.mark.parametrize("read", ["batch", "split"])
def test_a_column_that_was_not_asked_for_is_an_error_that_says_how(
    read: str, splits: Any, tiny_model: Callable[..., str]
) -> None:
    own: dict[str, Any] = {
        "batch": {"loss": lambda model, batch: per_row(model, batch) * batch.columns["weight"]},
        "split": {"order": lambda split: np.argsort(split.columns["weight"])},
    }
    told: Any = {"model": tiny_model(), "text_columns": "text", **own[read]}
    for asked, there in ((None, "none"), (["age"], "age")):
        with pytest.raises(UsageError) as refused:
            list(dongu.Loop(splits, columns=asked, **told))
        said = f"there is no column `weight` beside the text, of those that are read: {there}"
        assert refused.value.what == said
        assert refused.value.hint == f"""columns={[*(asked or ()), "weight"]!r}"""
    assert list(dongu.Loop(splits, columns=["age", "weight"], max_steps=1, **told))


@pytest.mark.parametrize("command", [["train"], ["train", "--seeds", "2"], ["train", "--folds", "2"], ["tune"]])
def test_columns_that_nothing_reads_are_refused(
    command: list[str], tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, mine = tmp_path / "rows.csv", tmp_path / "out", tmp_path / "mine.py"
    data.write_text("text,label,age\n" + "".join(f"word{i},l{i % 2},{i}\n" for i in range(30)))
    mine.write_text("def lr_scheduler(step): return 1.0\n")
    name, *more = command
    told = [name, str(data), "--model", tiny_model(), "--out", str(out), "--columns", "age", *more]
    for parts in ([], ["--parts", str(mine)]):
        assert run_command([*told, *parts]) == 2
        assert "--columns age: nothing in this run reads such columns" in capsys.readouterr().err
        assert not out.exists()


def test_a_run_that_reads_columns_is_compared_with_one_that_does_not(
    splits: Any, tiny_model: Callable[..., str], tmp_path: Path
) -> None:
    told: Any = {"model": tiny_model(), "text_columns": "text", "max_steps": 2, "quiet": True}
    dongu.train(splits, out=str(tmp_path / "plain"), **told)
    dongu.train(splits, out=str(tmp_path / "own"), columns=["weight"], loss=per_row, **told)
    assert dongu.compare(tmp_path / "plain", tmp_path / "own").rows == 12


def test_several_validation_splits(splits: Any, tiny_model: Callable[..., str], tmp_path: Path) -> None:
    loop = dongu.Loop(splits, model=tiny_model(), text_columns="text", epochs=2)
    with loop.run(tmp_path / "run") as run:
        for _ in run:
            if run.due:
                hard = run.evaluate("validation:hard")["accuracy"]
                run.record(norm=loop.model.classifier.weight.norm().item())
        with pytest.raises(UsageError, match="each line of the log has `event`"):
            run.record(event=1)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    recorded = [line for line in lines if line["event"] == "record"]
    assert [line["validation:hard/accuracy"] for line in recorded[-2:-1]] == [hard]
    assert recorded[-1]["norm"] > 0
    assert recorded[-1]["step"] == run.state.step
    assert sum(line["event"] == "evaluation" for line in lines) == 2, "validation was evaluated where it was due"
    assert "validation:hard" in run.result.results


def mixed(model: Any, batch: Any) -> Tensor:
    return per_row(model, batch) * float(np.random.beta(0.4, 0.4)) * random.random()


def noisy(loop: Any, update: Any) -> None:
    update.record(torch=torch.randn(()).item(), numpy=np.random.rand(), python=random.random())
    update.backward().step()


def masked(split: Any, rows: Any) -> dict[str, Tensor]:
    longest = int(split.tokens.lengths[rows].max())
    inputs = torch.full((len(rows), longest), 5) + torch.randint(9, (len(rows), longest)) + np.random.randint(9)
    labels = torch.from_numpy(split.targets[rows])
    return {"input_ids": inputs + random.randrange(9), "attention_mask": torch.ones_like(inputs), "labels": labels}


@pytest.mark.parametrize("parts", [{"loss": mixed}, {"update": noisy}, {"collate": masked}])
def test_what_parts_draw_is_a_function_of_seed_and_step(
    parts: Any, splits: Any, tiny_model: Callable[..., str]
) -> None:
    """By Python, NumPy and PyTorch: else a run that goes on draws other numbers."""

    def steps(begin: int) -> list[Any]:
        np.random.seed(begin)
        random.seed(begin)
        torch.manual_seed(begin)
        loop = dongu.Loop(splits, model=tiny_model(), text_columns="text", learning_rate=1e-30, engine="plain", **parts)
        loop.go_to(begin)
        return [(step.number, step.recorded, step.loss) for step in loop]

    whole = steps(0)
    assert whole[4:] == steps(4)
    assert len({loss for _, _, loss in whole}) == len(whole)


def test_a_metric_that_draws_gives_the_same_again_and_moves_no_other_draw(
    splits: Any, tiny_model: Callable[..., str], tmp_path: Path
) -> None:
    """A bootstrap, say: else a run that goes on logs other numbers, and processes differ about the best model."""

    def drawn(evaluation: Any) -> float:
        places = np.random.randint(len(evaluation), size=50)
        return float(evaluation.losses[places].mean()) + random.random() + torch.rand(()).item()

    def draws() -> list[float]:
        return [random.random(), np.random.rand(), torch.rand(()).item()]

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    def logged(out: str, seed: int = 42) -> list[str]:
        told: Any = {"model": tiny_model(), "text_columns": "text", "metrics": {"drawn": drawn}, "seed": seed}
        dongu.train(splits, out=str(tmp_path / out), max_steps=4, eval_steps=2, learning_rate=1e-30, quiet=True, **told)
        lines = (tmp_path / out / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["drawn"] for line in lines if '"evaluation"' in line]

    first = logged("first")
    random.random()  # what happened to be drawn before
    assert logged("again") == first
    assert first[0] == first[1], "the same rows are drawn at each evaluation of the same answers"
    assert logged("other", seed=43) != first

    loop = dongu.Loop(splits, model=tiny_model(), text_columns="text", metrics={"drawn": drawn})
    seed()
    wanted = draws()
    seed()
    evaluation = loop.evaluate()
    told = verdict(evaluation, loop.metrics, None, 42)
    assert draws() == wanted
    assert verdict(evaluation, loop.metrics, None, 42) == told, "as a run that went on has it, and verify"


def grow(loop: Any, update: Any) -> None:
    rows = loop.own["rows"]
    rows.value = np.append(rows.value, update.rows)
    loop.own["mean"].value = rows.value.mean()
    update.record(rows=len(rows.value), mean=float(loop.own["mean"].value))
    update.backward().step()


def test_numbers_that_grow_go_on_as_they_were(splits: Any, tiny_model: Callable[..., str], tmp_path: Path) -> None:
    """And those that become others than they began as: a fraction came back as a whole number, one value as several."""

    def setup(loop: Any) -> None:
        loop.own |= {"rows": dongu.Array(np.zeros(0, np.int64)), "mean": dongu.Array(0)}

    def script(out: Path, stop_at: int = 0) -> bytes:
        told: Any = {"model": tiny_model(), "text_columns": "text", "max_steps": 5, "save_steps": 2}
        loop = dongu.Loop(splits, setup=setup, update=grow, **told)
        with loop.run(out) as run:
            for step in run:
                if step.number == stop_at:
                    raise RuntimeError
        return (out / "checkpoints/step-00000004/own.safetensors").read_bytes() + (out / "metrics.jsonl").read_bytes()

    whole = script(tmp_path / "whole")
    with pytest.raises(RuntimeError):
        script(tmp_path / "cut", stop_at=3)
    assert script(tmp_path / "cut") == whole


class Bank(nn.Module):
    """A buffer that grows, which PyTorch does not load into one that is smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))


def test_state_that_cannot_come_back_or_be_held_is_named(
    splits: Any, tiny_model: Callable[..., str], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="holds <U1, which no checkpoint does"):
        dongu.Array(["a"])

    def script(setup: Any, update: Any, stop_at: int = 0) -> None:
        told: Any = {"model": tiny_model(), "text_columns": "text", "max_steps": 4, "save_steps": 1}
        loop = dongu.Loop(splits, setup=setup, update=update, **told)
        with loop.run(tmp_path / setup.__name__) as run:
            for step in run:
                if step.number == stop_at:
                    raise RuntimeError

    def bank(loop: Any) -> None:
        loop.own["bank"] = Bank()

    def growing(loop: Any, update: Any) -> None:
        loop.own["bank"].seen = torch.zeros(1 + update.number)
        update.backward().step()

    with pytest.raises(RuntimeError):
        script(bank, growing, stop_at=2)
    with pytest.raises(UsageError, match=r"loop.own\['bank'\]: does not take its state back \(.*size mismatch"):
        script(bank, growing)

    def imaginary(loop: Any) -> None:
        loop.own["phase"] = dongu.Array(np.zeros(2, np.complex128))

    with pytest.raises(UsageError, match=r"has a torch.complex128, which no checkpoint holds"):
        script(imaginary, lambda loop, update: update.backward().step())


def test_a_model_that_takes_whatever_there_is(splits: Any, tiny_model: Callable[..., str]) -> None:
    class Wrapped(nn.Module):
        def __init__(self, labels: int) -> None:
            super().__init__()
            self.inner = Plain(labels)

        def forward(self, **inputs: Any) -> Any:
            assert inputs.pop("token_type_ids").shape == inputs["input_ids"].shape
            return self.inner(**inputs)

    def compiled(labels: int) -> Any:
        return torch.compile(Plain(labels), backend="eager")

    for model in (Wrapped, compiled):
        loop = dongu.Loop(splits, model=model, tokenizer=tiny_model(), text_columns="text", max_steps=1)
        assert len(list(loop)) == 1


def test_a_folder_may_hold_a_tokenizer_alone(splits: Any, tiny_model: Callable[..., str], tmp_path: Path) -> None:
    words = tmp_path / "words"
    AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(words)
    assert not (words / "config.json").exists()
    loop = dongu.Loop(splits, model=Plain, tokenizer=str(words), text_columns="text", max_steps=1)
    usual = dongu.Loop(splits, model=Plain, tokenizer=tiny_model(), text_columns="text", max_steps=1)
    assert [step.loss for step in loop] == [step.loss for step in usual]
    with pytest.raises(ModelError, match=r"--tokenizer .*/nowhere: is not a folder"):
        dongu.Loop(splits, model=Plain, tokenizer=str(tmp_path / "nowhere"), text_columns="text")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("gpt2"))
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    tokenizer.save_pretrained(tmp_path / "left")
    decoder = dongu.Loop(splits, model=tiny_model("gpt2"), tokenizer=str(tmp_path / "left"), text_columns="text")
    assert (decoder.tokenizer.padding_side, decoder.config.engine) == ("right", "packed")  # the model says where
    shutil.copy(f"{tiny_model()}/config.json", words)  # and no weights
    assert dongu.Loop(splits, model=Plain, tokenizer=str(words), text_columns="text").fallback
    (words / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"--tokenizer .*/words: cannot be loaded"):
        dongu.Loop(splits, model=Plain, tokenizer=str(words), text_columns="text")
    (words / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"--tokenizer .*/words: has no tokenizer.json"):
        dongu.Loop(splits, model=Plain, tokenizer=str(words), text_columns="text")


def test_updates_that_a_run_does_not_see_are_an_error(
    splits: Any, tiny_model: Callable[..., str], tmp_path: Path
) -> None:
    """The loop in the block of a run ended without a result, and said nothing."""
    loop = dongu.Loop(splits, model=tiny_model(), text_columns="text", max_steps=3)
    with pytest.raises(UsageError, match="has made 3 updates, and the run has recorded 0"), loop.run(tmp_path / "run"):
        list(loop)
    loop = dongu.Loop(splits, model=tiny_model(), text_columns="text", max_steps=3)
    with pytest.raises(UsageError, match="for step in run"), loop.run(tmp_path / "other") as run:
        [next(iter(loop)) for _ in run]


def test_a_run_begins_with_its_loop(splits: Any, tiny_model: Callable[..., str], tmp_path: Path) -> None:
    loop = dongu.Loop(splits, model=tiny_model(), text_columns="text")
    next(iter(loop))
    with pytest.raises(UsageError, match="has made 1 updates already"), loop.run(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_begin_lets_go_of_its_folder(
    splits: Any, tiny_model: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is released where a log cannot be opened, long after it was taken."""
    released: list[str] = []

    @contextmanager
    def lock(folder: RunFolder, *, enabled: bool = True) -> Iterator[None]:
        folder.path.mkdir()
        try:
            yield
        finally:
            released.append(folder.path.name)

    def full(*_: Any, **__: Any) -> None:
        raise StorageError("no space")

    monkeypatch.setattr(RunFolder, "lock", lock)
    monkeypatch.setattr("dongu.running.Journal", full)
    run = dongu.Loop(splits, model=tiny_model(), text_columns="text").run(tmp_path / "run")
    with pytest.raises(StorageError), run:
        pass
    assert released == ["run"]


@pytest.mark.cases(test=1, ci=2)
@pytest.mark.parametrize("how", ["break", "exception"])
def test_leaving_a_run_by(how: str, splits: Any, tiny_model: Callable[..., str], tmp_path: Path) -> None:
    """`break` ends it, judged; an exception leaves it as it is, and the same script goes on."""
    options: dict[str, Any] = {"model": tiny_model("bert", 0.1), "text_columns": "text", "epochs": 2, "save_steps": 1}

    def script(stop_at: int) -> dongu.RunResult:
        with dongu.Loop(splits, **options).run(tmp_path / "run") as run:
            for step in run:
                if step.number == stop_at and how == "break":
                    break
                if step.number == stop_at:
                    raise RuntimeError
        return run.result

    if how == "break":
        assert script(2).results["steps"] == 2
        assert script(2).results["steps"] == 2, "it is finished"
        return
    with pytest.raises(RuntimeError):
        script(4)
    assert not (tmp_path / "run" / "results.json").exists()
    assert script(0).results["steps"] == 6
    again = dongu.train(splits, out=str(tmp_path / "other"), **options)
    for file in ("metrics.jsonl", "model/model.safetensors", "results.json"):
        assert (tmp_path / "run" / file).read_bytes() == (again.path / file).read_bytes()


PARTS = """
import torch.nn.functional as F
from pathlib import Path

with Path(r"{trace}").open("a") as file:
    file.write("run")

def loss(model, batch):
    return F.cross_entropy(model(**batch.inputs).logits, batch.labels, reduction="none")
"""


def test_a_run_folders_own_copy_is_never_run(
    data_folder: Callable[..., str], tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not by the commands that read a run, and not by those that go on with it or prove it, unless it is named."""
    trace, parts, run = tmp_path / "trace", tmp_path / "mine.py", tmp_path / "run"
    parts.write_text(PARTS.format(trace=trace))
    command = ["train", data_folder(), "--model", tiny_model(), "--max-steps", "2", "--out", str(run)]
    assert run_command([*command, "--parts", str(parts)]) == 0
    said = capsys.readouterr().out
    assert "loss       your own\n" in said
    assert f"parts      loss from {parts}" in said.replace("\n           ", " ")
    assert re.search(rf"next +dongu train --config {run}/run.json .* --parts {parts}\n", said)
    assert trace.read_text() == "run"
    (run / "parts.py").write_text(PARTS.format(trace=trace) + "\n# another one\n")
    for reading in (
        ["predict", str(run), "a text"],
        ["evaluate", str(run)],
        ["report", str(run)],
        ["compare", str(run), str(run)],
        ["resume", str(run)],
        ["verify", str(run)],
        ["eject", str(run)],
    ):
        run_command(reading)
        assert trace.read_text() == "run", reading
    capsys.readouterr()
    again = ["train", "--config", str(run / "run.json"), "--out", str(tmp_path / "again")]
    assert run_command(again) == 2
    assert f"give their file too: --parts {parts}" in capsys.readouterr().err
    assert run_command([*again, "--parts", str(parts)]) == 0
    assert (tmp_path / "again" / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert run_command(["verify", str(run), "--parts", str(run / "parts.py")]) == 1, "another file is another run"
    assert "the parts of your own are loss" in capsys.readouterr().out


@pytest.mark.cases(test=4, ci=10)
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("raise ValueError('a shape')", "mine.py:3: ValueError: a shape"),
        ("sys.exit()", "mine.py:3: SystemExit"),
        ("sys.exit(0)", "mine.py:3: SystemExit: 0"),
        ("torch.zeros(2) @ torch.zeros(3)", "mine.py:3: RuntimeError: "),
        ("helper.fail()", "helper.py:2: ZeroDivisionError: division by zero"),
    ],
)
@pytest.mark.parametrize("head", ["def setup(loop):", "def loss(model, batch):"])
def test_what_a_part_raises_is_told_with_its_line(
    data_folder: Callable[..., str],
    tiny_model: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    head: str,
    statement: str,
    said: str,
) -> None:
    """It is no error of dongu's; and a run that a part has ended with 0 would say that all was trained."""
    (tmp_path / "helper.py").write_text("def fail():\n    1 / 0\n", encoding="utf-8")
    (tmp_path / "mine.py").write_text(f"import sys, torch, helper\n{head}\n    {statement}\n", encoding="utf-8")
    command = ["train", data_folder(), "--model", tiny_model(), "--parts", str(tmp_path / "mine.py")]
    assert run_command([*command, "--out", str(tmp_path / "run"), "--max-steps", "1"]) == 2
    assert f"dongu: error: {tmp_path}/{said}" in (error := capsys.readouterr().err)
    assert len(error[error.index("dongu: error") :].splitlines()) <= 3


@pytest.mark.parametrize("code", ["", "0", "3"])
def test_a_file_of_parts_that_ends_the_process_is_an_error(tmp_path: Path, code: str) -> None:
    """As a script does that was not written to be imported: nothing was trained, and 0 would say that all was."""
    (tmp_path / "mine.py").write_text(f"import sys\n\nsys.exit({code})\n", encoding="utf-8")
    with pytest.raises(UsageError, match="SystemExit") as caught:
        take_own({}, tmp_path / "mine.py")
    assert caught.value.where == f"{tmp_path / 'mine.py'}:3"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("def loss(model, batch:\n", r"mine.py:1"),
        ("x = 1\nraise ValueError('no')\n", r"mine.py:2: ValueError: no"),
        ("def losses(model, batch): ...\n", "has no part of a run"),
        ("from .helper import loss\n", "parent package\nleave the dot out: `from helper import"),
        ("optimizer = 3\ndef loss(m, b): ...\n", "an int is not a function"),
        ("tokenizer = 'other'\ncolumns = 'age'\n", "--tokenizer: is other in"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used(
    content: str | None,
    said: str,
    data_folder: Callable[..., str],
    tiny_model: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    command = ["train", data_folder(), "--model", tiny_model(), "--out", str(tmp_path / "run"), "--tokenizer", "mine"]
    assert run_command([*command, "--parts", str(tmp_path / "mine.py")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_inspect_reads_the_columns_of_a_file(
    tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text("text,label,age\n" + "".join(f"word{i},l{i % 2},{i}\n" for i in range(30)))
    (tmp_path / "mine.py").write_text("columns = ['age']\n\ndef loss(model, batch): ...\n")
    command = ["inspect", str(tmp_path / "rows.csv"), "--model", tiny_model(), "--parts", str(tmp_path / "mine.py")]
    assert run_command(command) == 0
    assert "not used" not in capsys.readouterr().out
    with (tmp_path / "rows.csv").open("a") as file:
        file.write("word,l1,old\n")
    assert run_command(command) == 2
    assert "the column `age` has `old`, which is not a number" in capsys.readouterr().out


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_is_told_of(
    value: float, splits: Any, tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At once, with its split; it is undefined, and no infinity is the best of all."""

    def gain(evaluation: Any) -> float:
        return value if evaluation.split == "test" or (tmp_path / "run/model").exists() else 0.5

    told: Any = {"model": tiny_model(), "text_columns": "text", "metrics": {"gain": gain}, "metric": "gain"}
    told |= {"max_steps": 6, "eval_steps": 2, "out": str(tmp_path / "run")}
    result = dongu.train({**splits, "test": splits["validation"]}, **told)
    said = capsys.readouterr().out
    assert said.count("WARNING: metrics['gain'] is not finite on validation: it is recorded as undefined (null)") == 1
    assert said.count("WARNING: metrics['gain'] is not finite on test: it is recorded as undefined (null)\n") == 1
    assert result.results["best_step"] == 2
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["gain"] for line in lines if line["event"] == "evaluation"] == [0.5, None, None]
