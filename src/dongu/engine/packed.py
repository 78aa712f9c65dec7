"""The padding-free form of a classifier: only real tokens are computed.

A padded batch spends a third of its time on padding, and its last layer computes tokens that no head reads. Here the
rows of a micro-batch are concatenated to (tokens, hidden). Embeddings, Linear and LayerNorm need no change; only
attention is told where a row begins and ends. In the last layer only the tokens that the head reads are queries. The
modules and weights are the model's own, so what is saved is too. Nothing in transformers is replaced; `generic`
registers an attention function.

`why_not` says why a model is not covered; `self_check` compares with the model's own forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dongu.engine.answers import Answers
from dongu.engine.families import FAMILIES, why_not
from dongu.engine.generic import GenericEncoder
from dongu.engine.graphs import HOOKED, Graphs, has_hooks
from dongu.engine.layout import Layout, size_step
from dongu.engine.modes import kept_modes
from dongu.engine.products import fast_products, has_fast_products
from dongu.engine.recompute import recomputes, surrounded
from dongu.engine.recordings import Shape
from dongu.errors import DonguError, ModelError
from dongu.text import reason_of

FILLERS_A_ROW = 64  # on CUDA; with more, a row of fillers could be the longest row of attention
TOLERANCE = 1e-4  # of the self-check in fp32: rounding is below a hundredth of this, a wrong layout far above
TOLERANCE_IN_HALF = 0.2  # of the self-check in bf16, where rounding may be some hundredths
# The device lacks a kernel, or the model needs inputs that it is not given.
UNCOMPUTED = (AttributeError, DonguError, LookupError, RuntimeError, TypeError, ValueError)


class PaddingFree(nn.Module):
    """A sequence classifier on concatenated rows. The classifier inside is not changed, and all weights are shared.

    Raises:
        ModelError: the model is not covered; `why_not` says so beforehand.
    """

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        if reason := why_not(classifier):
            raise ModelError(f"cannot be computed without padding: {reason}", hint="use --engine plain")
        self.classifier = classifier
        family = FAMILIES[classifier.config.model_type]
        self.encoder, self.head = family.encoder(classifier.base_model), family.head
        self.graphs: Graphs | None = None
        self.answers: Answers | None = None
        self._heads = getattr(classifier.config.get_text_config(), "num_attention_heads", 1)
        # The token id of fillers. No logit depends on it, but RoBERTa's positions are counted by it.
        embeddings = getattr(classifier.base_model, "embeddings", None)
        positions = getattr(embeddings, "position_embeddings", None)
        self._padding = getattr(positions, "padding_idx", None) or 0

    def copy_to(self, classifier: Any) -> PaddingFree:
        """The same form of a copy of the classifier."""
        copied = PaddingFree(classifier)
        if isinstance(self.encoder, GenericEncoder):
            copied.encoder = self.encoder.copy_to(classifier.base_model)
        return copied

    @property
    def config(self) -> Any:
        """The classifier's own."""
        return self.classifier.config

    def forward(self, input_ids: Tensor, lengths: Tensor, token_type_ids: Tensor | None = None) -> Any:
        """Logits of each row.

        Args:
            input_ids: (tokens,), the rows concatenated; best on the host, whatever the model's device.
            lengths: (batch,), the tokens of each row; on the host, else reading them waits for the device.
            token_type_ids: (tokens,), like `input_ids`.

        Returns:
            `logits` (batch, labels), in the order of the rows, on the model's device.
        """
        from transformers.modeling_outputs import SequenceClassifierOutput

        return SequenceClassifierOutput(logits=self.logits(input_ids, lengths, token_type_ids))

    def logits(self, input_ids: Tensor, lengths: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """The same as a plain tensor, without the output class of transformers."""
        device = self.classifier.device
        if device.type == "cuda":
            return self._on_gpu(input_ids, lengths, token_type_ids)
        # Few different sizes: oneDNN compiles its products for each.
        rounded = torch.is_autocast_enabled("cpu") or has_fast_products()
        layout = Layout.of(lengths.tolist(), self._heads, rounded).to(device)
        ids = F.pad(input_ids.to(device), (0, 1), value=self._padding)[layout.source]
        type_ids = None if token_type_ids is None else F.pad(token_type_ids.to(device), (0, 1))[layout.source]
        with surrounded(lambda: fast_products(device)):
            pooled = self.encoder(ids, type_ids, layout)  # (batch, hidden), in order of length
        return self.head(self.classifier, pooled)[layout.unsort]  # type: ignore[no-any-return]

    def _on_gpu(self, input_ids: Tensor, lengths: Tensor, token_type_ids: Tensor | None) -> Tensor:
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        numbers, shape, layout = self.as_one_tensor(input_ids.cpu(), types.cpu(), lengths.cpu())
        if torch.is_grad_enabled():
            if self.graphs is not None and not self.graphs.for_updates_only and self.classifier.training:
                return self.graphs(numbers, shape)
        elif self.answers is not None and not self.classifier.training:
            answer = self.answers(numbers, shape)
            if answer is not None:
                return answer
        return self._compute(numbers.to(self.classifier.device, non_blocking=True), shape, layout)

    def as_one_tensor(self, input_ids: Tensor, types: Tensor, lengths: Tensor) -> tuple[Tensor, Shape, Layout]:
        """All that a GPU needs of a micro-batch as (numbers,) int64, to be sent in one copy, and its shape.

        Fillers are short rows behind the others, so every token belongs to a row.
        """
        step = size_step(len(input_ids), "cuda")
        filler_rows = -(-step // FILLERS_A_ROW)
        fillers = filler_rows + -(len(input_ids) + filler_rows) % step
        length, longer = divmod(fillers, filler_rows)
        filler_lengths = [length + 1] * longer + [length] * (filler_rows - longer)
        layout = Layout.of([*lengths.tolist(), *filler_lengths], self._heads, rounded=True, fillers=0)
        parts = (
            input_ids, input_ids.new_full((fillers,), self._padding), types, types.new_zeros(fillers),
            layout.source, layout.row,
            layout.position_ids % lengths.max(),  # a row of fillers may be longer than the model's positions
            layout.cu_seqlens, layout.unsort,
        )  # fmt: skip
        return torch.cat(parts).pin_memory(), (len(layout.row), len(lengths), filler_rows, layout.max_seqlen), layout

    def _compute(self, numbers: Tensor, shape: Shape, known: Layout | None = None) -> Tensor:
        """Logits (batch, labels) from the numbers of `as_one_tensor`, on their device; the layout is optional."""
        tokens, batch, filler_rows, max_seqlen = shape
        rows = batch + filler_rows
        input_ids, types, *tensors = torch.split(numbers, [tokens] * 5 + [rows + 1, rows])
        lengths, filler = ((), 0) if known is None else (known.lengths, known.filler)
        layout = Layout(self._heads, True, lengths, max_seqlen, filler, *tensors)
        pooled = self.encoder(input_ids[layout.source], types[layout.source], layout)
        return self.head(self.classifier, pooled)[layout.unsort[:batch]]  # type: ignore[no-any-return]

    def replay_answers(self) -> None:
        """From now on replay evaluation and prediction, for shapes of micro-batches that occur again."""
        if self.answers is None:
            self.answers = Answers(self._compute, self.classifier)

    def record(self, inputs: Mapping[str, Tensor], *, alone: bool = True) -> str | None:
        """From now on replay training steps; or return why this model's cannot be recorded, in a few words.

        Args:
            inputs: padded inputs of some rows, to try it with.
            alone: whether there is one process.
        """
        if has_hooks(self.classifier.parameters()):
            self.graphs = None
            return HOOKED
        if recomputes(self.classifier):
            return "activations are computed again"  # in an order that backward finds
        self.graphs = Graphs(self._compute, self.classifier)
        with kept_modes(self):
            self.train()
            try:
                self(**flatten(inputs))
            except (DonguError, RuntimeError) as error:
                self.graphs = None
                return reason_of(error)
        if not alone:
            self.graphs.for_updates_only = True
            self.graphs.release()
        return None


def inside_ddp(engine: Any) -> Any:
    """The engine without the DDP around it, where there are several processes."""
    return engine.module if isinstance(engine, DistributedDataParallel) else engine


def flatten(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Padded inputs, (batch, tokens) each, as concatenated rows.

    Raises:
        ValueError: the mask is not ones, then zeros, in each row.
    """
    real = inputs["attention_mask"].bool()
    if not bool(real[:, 0].all()) or bool((real[:, 1:] & ~real[:, :-1]).any()):
        raise ValueError("padding is expected on the right of each row")
    flat = {name: tensor[real].cpu() for name, tensor in inputs.items() if name in ("input_ids", "token_type_ids")}
    return {**flat, "lengths": real.sum(1).cpu()}


def self_check(model: PaddingFree, inputs: Mapping[str, Tensor]) -> float:
    """The largest difference to the model's own forward on padded inputs, relative to the largest logit; no dropout."""
    with kept_modes(model), torch.no_grad():
        model.eval()
        wanted = model.classifier(**inputs).logits.double()
        got = model(**flatten(inputs)).logits.double()
    return float((got - wanted).abs().max() / wanted.abs().max().clamp_min(torch.finfo(torch.float32).tiny))


def without_padding(
    model: Any, inputs: Mapping[str, Tensor], padding_side: str, autocast: AbstractContextManager[Any] | None = None
) -> tuple[Any, str | None]:
    """The padding-free form of a model if it gives the same logits on padded inputs; else the model, and the reason.

    They are compared in fp32, and again in the precision of `autocast`, in which other kernels may compute.
    """
    if reason := why_not(model, padding_side):
        return model, reason
    packed = PaddingFree(model)
    tries: list[tuple[AbstractContextManager[Any], float]] = [(nullcontext(), TOLERANCE)]
    if autocast is not None:
        tries.append((autocast, TOLERANCE_IN_HALF))
    for precision, tolerance in tries:
        try:
            with precision:
                difference = self_check(packed, inputs)
        except torch.OutOfMemoryError:
            raise
        except UNCOMPUTED as error:
            return model, f"it cannot be computed so here ({reason_of(error)})"
        if not difference <= tolerance:  # or it is no number
            return model, f"its logits would differ by {difference:.1g} of their size"
    return packed, None
