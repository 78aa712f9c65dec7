"""Any transformer on flat rows, through the attention interface of transformers.

The model's own forward takes all rows as one, (1, tokens): embeddings, Linear and norms see no row, rotary and learnt
positions follow `position_ids`, and attention alone has to know where a row begins and ends. It is registered under a
name of its own, as transformers wants it, and a model's configuration bears that name only while rows are computed.
The head is the model's own too: it is called with the tokens that it reads, in the place of a whole batch.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from threading import RLock
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from dongu.engine.attention import attend, attend_beyond
from dongu.engine.encoders import in_autocast, positions_after
from dongu.engine.layout import Layout
from dongu.engine.recompute import surrounded
from dongu.errors import ModelError

NAME = "dongu_rows"  # of the attention, in transformers' registry
Reads = Literal["first", "last", "all"]  # the tokens of a row that a head reads


@dataclass(frozen=True)
class FlatRows:
    """The rows of the forward under way, for its attention."""

    layout: Layout
    by_heads: dict[int, Layout]

    def of_heads(self, heads: int) -> Layout:
        """The layout for attention of so many heads."""
        if heads not in self.by_heads:
            self.by_heads[heads] = replace(self.layout, heads=heads)
        return self.by_heads[heads]


_rows: ContextVar[FlatRows] = ContextVar("rows")


class GenericEncoder:
    """A base model on flat rows, up to what the head reads.

    Args:
        base: the base model.
        reads: the tokens of a row that its classifier's head reads: the first; the last that is no padding token, as
            decoders' heads count; or all.

    Raises:
        AttributeError: its forward takes no positions.
    """

    def __init__(self, base: Any, reads: Reads) -> None:
        self.base, self.reads = base, reads
        self.configs = {id(part.config): part.config for part in base.modules() if hasattr(part, "config")}.values()
        self.accepted = inspect.signature(base.forward).parameters
        if "position_ids" not in self.accepted:
            raise AttributeError("it takes no position_ids")
        positions = getattr(getattr(base, "embeddings", None), "position_embeddings", None)
        self.padding = getattr(positions, "padding_idx", None)  # where positions are counted from it on
        self.lock = RLock()  # of threads that ask the same model, one computes at a time
        self.pad_token_id = getattr(base.config.get_text_config(), "pad_token_id", None)

    def __call__(self, input_ids: Tensor, token_type_ids: Tensor | None, layout: Layout) -> tuple[Tensor, Tensor]:
        """(tokens,) each → what the head reads, (batch, read, hidden), and (batch, read): whether it is a token."""
        position_ids = layout.position_ids
        if self.padding is not None:
            position_ids = positions_after(self.padding, input_ids, layout)
        given = {
            "position_ids": position_ids[None],
            "attention_mask": torch.ones_like(input_ids)[None],
            "token_type_ids": None if token_type_ids is None else token_type_ids[None],
            "use_cache": False,
        }
        with surrounded(lambda: self.attention(layout)):
            output = self.base(input_ids=input_ids[None], **{k: v for k, v in given.items() if k in self.accepted})
        hidden = output[0][0]  # (tokens, hidden)
        if self.reads == "all":
            index = torch.arange(layout.longest, device=hidden.device)
            real = index < layout.cu_seqlens.diff()[:, None]
            return hidden[torch.where(real, layout.first[:, None] + index, layout.filler)], real
        index = layout.first if self.reads == "first" else self.last(input_ids, layout)
        return hidden[index][:, None], torch.ones_like(index, dtype=torch.bool)[:, None]

    def last(self, input_ids: Tensor, layout: Layout) -> Tensor:
        """Index of the last token of each row that is no padding token, (batch,); of the first if none is."""
        index = torch.arange(len(input_ids), device=input_ids.device)
        if self.pad_token_id is None:
            return layout.cu_seqlens[1:] - 1
        counts = (input_ids != self.pad_token_id) & (index < layout.tokens)
        return layout.first.scatter_reduce(0, layout.row, torch.where(counts, index, 0), "amax")

    @contextmanager
    def attention(self, layout: Layout) -> Iterator[None]:
        """Have the model's attention stay inside the rows of this layout, within the block."""
        with self.lock:
            own = [(config, config._attn_implementation) for config in self.configs]
            token = _rows.set(FlatRows(layout, {layout.heads: layout}))
            try:
                for config, _ in own:
                    config._attn_implementation = NAME
                yield
            finally:
                _rows.reset(token)
                for config, implementation in own:
                    config._attn_implementation = implementation


@dataclass(frozen=True)
class Read:
    """What a classifier gets from its base model, which has computed before: the tokens that its head reads."""

    hidden: Tensor  # (batch, read, hidden)
    pooled: Tensor | None  # (batch, hidden)

    def __call__(self, *_: Any, **__: Any) -> BaseModelOutputWithPoolingAndCrossAttentions:
        """Whatever is asked."""
        return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=self.hidden, pooler_output=self.pooled)


def own_head(model: Any, read: tuple[Tensor, Tensor]) -> Tensor:
    """The logits of the model's own head, (batch, labels), on what `GenericEncoder` gives."""
    hidden, real = read
    base, pooled = model.base_model, None
    if getattr(base, "pooler", None) is not None:
        takes = inspect.signature(base.pooler.forward).parameters
        pooled = base.pooler(hidden, real) if "attention_mask" in takes else base.pooler(hidden)
        if hasattr(base, "pooler_activation"):  # ALBERT, whose pooler is a Linear
            pooled = base.pooler_activation(pooled[:, 0])
    shell = copy.copy(model)  # the same weights, and a base model that has computed already
    vars(shell)["_modules"] = {**model._modules, model.base_model_prefix: Read(hidden, pooled)}
    pad_token_id = getattr(model.config.get_text_config(), "pad_token_id", None)
    input_ids = torch.full_like(real, 1 if pad_token_id == 0 else 0, dtype=torch.int64)
    return shell(input_ids=input_ids, attention_mask=real.long())[0]  # type: ignore[no-any-return]


def band_of_rows(*, mask_function: Callable[..., Tensor], **_: Any) -> Tensor:
    """What a model hands on to its attention as its mask: (1, 1, 1, 2), `causal` and `window` of `attend`, on the host.

    A window of -1 is none. (-1, -1) is no band around the diagonal, which a model may make and not use.
    """
    last, zero = _rows.get().layout.longest - 1, torch.tensor(0)
    key = torch.arange(last + 1)
    seen = [mask_function(zero, zero, torch.tensor(query), key).expand(key.shape) for query in (0, last // 2, last)]
    first, middle, end = (each.nonzero().flatten().tolist() for each in seen)
    band = (-1, -1)
    if first and end:
        before, after = last - end[0], first[-1]
        wanted = list(range(max(0, last // 2 - before), min(last, last // 2 + after) + 1))
        if middle == wanted and after in (0, before):
            band = (int(after == 0), before if before < last else -1)
    return torch.tensor(band).view(1, 1, 1, 2)


def attend_rows(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: (1, heads, tokens, head_dim) each → (1, tokens, heads, value_dim).

    Raises:
        ModelError: it is called otherwise.
    """
    if attention_mask is None:
        causal = bool(getattr(module, "is_causal", False))
        window = None if sliding_window is None else sliding_window - causal  # of a causal one the end is excluded
    elif attention_mask.dtype == torch.int64:
        causal, window = attention_mask.flatten().tolist()
        if causal < 0:
            raise ModelError("its attention mask is neither causal nor a window")
        window = None if window < 0 else window
    elif attention_mask.shape[:3] == (1, 1, 1):  # of padding alone, and there is none
        causal, window = False, None
    else:
        raise ModelError("its attention mask is its own")
    heads = query.shape[1]
    q, k, v = (in_autocast(x[0].transpose(0, 1)) for x in (query, key, value))  # (tokens, heads, head_dim)
    k, v = (x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    if scaling is not None and scaling != (usual := q.shape[-1] ** -0.5):
        q = q * (scaling / usual)
    layout, dropped = _rows.get().of_heads(heads), nn.Dropout(dropout)
    if softcap is None and s_aux is None:
        context = attend(q, k, v, layout, dropped, window=window, causal=causal == 1)
    else:
        context = attend_beyond(
            q, k, v, layout, dropped, window=window, causal=causal == 1, softcap=softcap, sinks=s_aux
        )
    return context.view(1, len(q), heads, -1), None


AttentionInterface.register(NAME, attend_rows)
AttentionMaskInterface.register(NAME, band_of_rows)
