"""`dongu train --explain`: the first steps of a run as a lesson, with its own numbers."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dongu.config import NUMBERS
from dongu.data.collate import MicroBatches
from dongu.loop import Loop
from dongu.model.loss import row_losses
from dongu.run.console import Console
from dongu.teach.language import LESSON_WIDTH, Language, read_words
from dongu.teach.watch import Gradients, Watch
from dongu.text import excerpt
from dongu.update import Step

EXPLAINED_STEPS = 3  # the first in full, the others in a line
SHOWN_ROWS = 3
_SHOWN_LABELS = 3
TOP_PARTS = 3
_SHOWN_CHARACTERS = 20  # of the name of a label
_INDENT = "    "
BARS = "▁▂▃▄▅▆▇█"
KINDS = {"single-label": "", "multi-label": "_multi", "regression": "_regression", "ordinal": "_regression"}
LOSSES = {
    "single-label": "cross_entropy",
    "multi-label": "binary_cross_entropy_with_logits",
    "regression": "mse_loss",
    "ordinal": "mse_loss",
}


def explained(loop: Loop, console: Console, language: Language) -> Iterator[Step]:
    """The steps of a loop, the first of which are shown; not one bit of them is another."""
    lesson, steps = Lesson(loop, language), iter(loop)
    shown = min(EXPLAINED_STEPS, loop.total_steps)
    for _ in range(shown):
        with Watch(loop) as seen:
            step = next(steps)
        console.lines(lesson.in_full(step, seen) if step.number == 1 else lesson.in_short(step, seen))
        if step.number == shown:
            console.lines(lesson.end(step))
        yield step
    yield from steps


class Lesson:
    """What is said of a step, in one language, as lines of at most `LESSON_WIDTH` characters."""

    def __init__(self, loop: Loop, language: Language) -> None:
        self._loop = loop
        self._words = read_words("explain", language)

    def in_full(self, step: Step, seen: Watch) -> Iterator[str]:
        """Each line of the loop, and what it did."""
        update = self._loop.train_updates[step.number - 1]
        logits = seen.logits[-len(update.micro_batches) :]  # those before may be of a try that ran out of memory
        yield ""
        title = self._say("title", number=step.number, total=self._count(self._loop.total_steps))
        yield f"── {title} ".ljust(LESSON_WIDTH, "─")
        yield from self._part("for update in train_dataloader:", "data", self._data(step, update))
        yield from self._part("logits = model(**inputs).logits", "forward", self._forward(update, logits[0]))
        name = LOSSES[self._loop.data.task]
        yield from self._part(f"loss = {name}(logits, labels)", "loss", self._loss(step, update, logits))
        yield from self._part("loss.backward()", "backward", self._backward(step, seen.gradients))
        yield from self._part("optimizer.step()", "step", self._step(step, seen))
        yield from self._part("lr_scheduler.step()", "schedule", self._schedule(step))
        zeroed = self._told("zeroed", bytes=_bytes(seen.gradients.size_bytes))
        yield from self._part("optimizer.zero_grad()", "zero", zeroed)
        yield ""

    def in_short(self, step: Step, seen: Watch) -> Iterator[str]:
        """The same in a line."""
        parts = (
            self._say("short_rows", examples=step.examples, tokens=self._count(step.tokens)),
            self._say("short_loss", loss=_loss(step.loss)),
            self._say("short_rate", rate=f"{step.learning_rate:.4g}"),
            self._say("short_norm", norm=f"{step.grad_norm:.3g}"),
            self._say("short_moved", relative=self._percent(seen.moved.relative)),
        )
        yield "  ".join([self._say("short", number=step.number), *parts])

    def end(self, step: Step) -> Iterator[str]:
        """What is left, and where to read on."""
        yield ""
        if left := self._loop.total_steps - step.number:
            yield from textwrap.wrap(self._say("end", count=self._count(left)), LESSON_WIDTH)
            yield ""

    def _part(self, code: str, name: str, lines: Iterator[str]) -> Iterator[str]:
        yield ""
        yield f"{code}{self._words[name]:>{LESSON_WIDTH - len(code)}}"
        yield from lines

    def _data(self, step: Step, update: MicroBatches) -> Iterator[str]:
        loop, first = self._loop, update.micro_batches[0]
        split = loop.splits["train"]
        own = sum(len(micro_batch.rows) for micro_batch in update.micro_batches)
        yield from self._told(
            "rows",
            examples=step.examples,
            rows=self._count(len(split)),
            own=self._say("own", own=own) if own < step.examples else "",
            id=split.ids[first.rows[0]],
        )
        start, end = split.tokens.offsets[first.rows[0]], split.tokens.offsets[first.rows[0] + 1]
        tokens = loop.tokenizer.convert_ids_to_tokens(split.tokens.input_ids[start:end].tolist())
        yield f"{_INDENT}{_INDENT}{excerpt(' '.join(tokens), LESSON_WIDTH - 2 * len(_INDENT))}"
        yield from self._told(
            "packed" if "lengths" in first.tensors else "plain",
            batch=len(first.rows),
            longest=first.padded_tokens // len(first.rows),
            tokens=self._count(first.tokens),
            padded=self._count(first.padded_tokens),
            share=self._percent(1 - first.tokens / first.padded_tokens),
        )
        if others := [str(tuple(each.tensors["input_ids"].shape)) for each in update.micro_batches[1:]]:
            shapes = ", ".join(others[:SHOWN_ROWS]) + (", …" if len(others) > SHOWN_ROWS else "")
            size = max(len(each.rows) for each in update.micro_batches)
            yield from self._told("micro", count=len(others) + 1, size=size, shapes=shapes, examples=step.examples)

    def _forward(self, update: MicroBatches, logits: Tensor) -> Iterator[str]:
        loop, task = self._loop, self._loop.data.task
        dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in loop.model.modules())
        yield from self._told(
            "logits" + KINDS[task],
            batch=logits.shape[0],
            labels=logits.shape[1],
            label=excerpt(loop.data.label_names[0], _SHOWN_CHARACTERS),
            mode=self._words["dropout"] if dropout else "",
            precision=self._words["bf16"] if loop.config.precision == "bf16" else "",
        )
        first = update.micro_batches[0]
        labels = first.tensors["labels"]
        for row, numbers, label in list(zip(first.rows, logits, labels, strict=True))[:SHOWN_ROWS]:
            name = self._say("row", id=loop.splits["train"].ids[row])
            yield f"{_INDENT}{_INDENT}{name:<10} {self._answer(numbers, label)}"

    def _answer(self, logits: Tensor, label: Tensor) -> str:
        """The logits of a row, (labels,), and what they say of its label."""
        loop, task = self._loop, self._loop.data.task
        if task in NUMBERS:
            answer, target = loop.loss.scale.undo(logits.numpy())[0], float(label)
            return f"{answer:9.4g}   {self._say('answer_regression', target=f'{target:.4g}')}"
        more = " …" if len(logits) > _SHOWN_LABELS else ""
        numbers = "".join(f"{number:8.3f}" for number in logits[:_SHOWN_LABELS]) + more
        if task == "multi-label":
            share, name = float(logits[0].sigmoid()), loop.data.label_names[0]
            has = self._words["has" if label[0] else "has_not"]
        else:
            share, name = float(logits.softmax(0)[label]), loop.data.label_names[int(label)]
            has = ""
        name = excerpt(name, _SHOWN_CHARACTERS)
        said = self._say("answer" + KINDS[task], share=self._percent(share), label=name, has=has)
        return f"{numbers}   {said}"

    def _loss(self, step: Step, update: MicroBatches, logits: Sequence[Tensor]) -> Iterator[str]:
        loop, task = self._loop, self._loop.data.task
        if isinstance(loop.config.class_weights, dict) or loop.config.label_smoothing or loop.loss.shares:
            yield from self._told("losses_weighed", examples=step.examples, loss=_loss(step.loss))
            return
        answers = loop.loss.scale.undo(torch.cat(list(logits)).numpy())  # (batch, labels)
        labels = torch.cat([micro_batch.tensors["labels"] for micro_batch in update.micro_batches]).numpy()
        losses = row_losses(task, answers, labels).tolist()
        shown = ", ".join(f"{loss:.3g}" for loss in losses[:SHOWN_ROWS]) + (", …" if len(losses) > SHOWN_ROWS else "")
        yield from self._told(
            "losses" + KINDS[task],
            losses=shown,
            examples=step.examples,
            loss=_loss(step.loss),
            classes=answers.shape[1],
            reference=_loss(self._ignorance()),
        )

    def _ignorance(self) -> float:
        """The loss of an answer that does not read."""
        data = self._loop.data
        if data.task in NUMBERS:
            return float(np.var(np.asarray(data.splits["train"].targets, dtype=np.float64)))
        return math.log(len(data.label_names) if data.task == "single-label" else 2)

    def _backward(self, step: Step, gradients: Gradients) -> Iterator[str]:
        limit = self._loop.config.max_grad_norm
        clipped = self._say("clipped", limit=f"{limit:g}") if limit is not None and step.grad_norm > limit else ""
        yield from self._told(
            "gradients", count=self._count(gradients.count), norm=f"{step.grad_norm:.4g}", clipped=clipped
        )
        shares = gradients.shares
        most = max(*shares.values(), sys.float_info.min)
        bars = "".join(BARS[round(share / most * (len(BARS) - 1))] for share in shares.values())
        top = sorted(shares, key=shares.__getitem__, reverse=True)[:TOP_PARTS]
        named = ", ".join(f"{self._part_name(part)} {self._percent(shares[part])}" for part in top)
        names = [self._part_name(part) for part in shares]
        yield _INDENT + self._say("parts", first=names[0], bars=bars, last=names[-1], top=named)

    def _part_name(self, part: str) -> str:
        return self._say("layer", part) if part.isdecimal() else self._words[part]

    def _step(self, step: Step, seen: Watch) -> Iterator[str]:
        weight, moved = seen.weight, seen.moved
        if step.learning_rate == 0:
            yield from self._told("standstill")
            return
        yield from self._told(
            "moved",
            distance=f"{moved.distance:.3g}",
            rate=f"{step.learning_rate:.4g}",
            relative=self._percent(moved.relative),
        )
        index = ", ".join(map(str, weight.index))
        yield from self._told("weight", name=weight.name, index=index, gradient=f"{weight.gradient:.3g}")
        rate = f"{weight.rate:.4g}"
        decayed = f"{weight.before:.7f} × (1 − {rate} × {weight.decay:g})"
        yield f"{_INDENT}{_INDENT}{decayed} − {rate} × ({weight.direction:.4f}) = {weight.after:.7f}"
        if seen.gradients.silent > 0:
            silent = "silent" if weight.decay > 0 else "silent_and_still"
            yield from self._told(silent, share=self._percent(seen.gradients.silent))

    def _schedule(self, step: Step) -> Iterator[str]:
        rate, following = step.learning_rate, max(self._loop.lr_scheduler.get_last_lr())
        name = self._loop.config.lr_scheduler
        yield from self._told("rate", name=name, rate=f"{rate:.6g}", next=f"{following:.6g}")

    def _told(self, key: str, **named: Any) -> Iterator[str]:
        text = self._say(key, **named)
        yield from textwrap.wrap(text, LESSON_WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)

    def _say(self, key: str, *values: Any, **named: Any) -> str:
        said: str = self._words[key].format(*values, **named)
        return said

    def _count(self, number: int) -> str:
        return f"{number:,}".replace(",", self._words["thousands"])

    def _percent(self, share: float) -> str:
        """Two digits that count, and none behind the point from ten on."""
        number = 100 * share
        return self._say("percent", f"{number:.0f}" if number >= 10 else f"{number:.2g}")


def _loss(number: float) -> str:
    """Losses of classes are around 1, those of numbers may have any size."""
    return f"{number:.4f}" if number < 100 else f"{number:.5g}"


def _bytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count >= 2**20 else f"{count / 2**10:,.0f} KiB"
