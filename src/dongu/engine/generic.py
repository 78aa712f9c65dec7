"""Any transformer on flat rows, through the attention interface of transformers.

The model's own forward takes all rows as one, (1, tokens): embeddings, Linear and norms see no row, rotary and learnt
positions follow `position_ids`, and attention alone has to know where a row begins and ends. It is registered under a
name of its own, as transformers wants it, and a model's configuration bears that name only while rows are computed.
The head is the model's own too: it is called with the tokens that it reads, in the place of a whole batch.

Of the last layer the head reads one token a row. Where that layer attends once and then treats each token for itself,
it is called twice: with all tokens, until it has their keys and values, and with those that are read, to its end.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from threading import RLock
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dongu.engine.attention import attend, attend_beyond
from dongu.engine.encoders import in_autocast, positions_after
from dongu.engine.layout import Layout
from dongu.engine.recompute import recomputes, surrounded
from dongu.errors import DonguError, ModelError

NAME = "dongu_rows"  # of the attention, in transformers' registry
Reads = Literal["first", "last", "all"]  # the tokens of a row that a head reads
_ROUNDING = 1e-4  # of the largest value: a last layer that is cut and no more than rounding apart is the same


class KeysSeenError(Exception):
    """The last layer has computed its keys and values, and nothing else of it is wanted for all tokens."""


@dataclass
class FlatRows:
    """The rows of the forward under way, for its attention.

    Attributes:
        layout: of all tokens.
        by_heads: the same for attention of so many heads.
        attended: calls of attention so far.
        stops: whether the next call of attention may end the layer, since its keys and values are all that is wanted
            beside the first or the last token of each row.
        seen: these keys and values, (tokens, heads, head_dim), and the window of their attention.
    """

    layout: Layout
    by_heads: dict[int, Layout] = field(default_factory=dict)
    attended: int = 0
    stops: Reads | None = None
    seen: tuple[Tensor, Tensor, int | None] | None = None

    def of_heads(self, heads: int) -> Layout:
        """The layout for attention of so many heads."""
        if heads not in self.by_heads:
            self.by_heads[heads] = self.layout if heads == self.layout.heads else replace(self.layout, heads=heads)
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
        register_attention()
        self.base, self.reads = base, reads
        self.configs = {id(part.config): part.config for part in base.modules() if hasattr(part, "config")}.values()
        self.accepted = inspect.signature(base.forward).parameters
        if "position_ids" not in self.accepted:
            raise AttributeError("it takes no position_ids")
        positions = getattr(getattr(base, "embeddings", None), "position_embeddings", None)
        self.padding = getattr(positions, "padding_idx", None)  # where positions are counted from it on
        self.lock = RLock()  # of threads that ask the same model, one computes at a time
        self.pad_token_id = getattr(base.config.get_text_config(), "pad_token_id", None)
        self.last_layer = next(reversed(layers_of(base)), None)
        self.attentions = 0  # calls of attention in a whole forward, once they are counted
        self.is_cut: bool | None = None  # whether the last layer ends with the tokens that are read; None: not tried

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
        given = {"input_ids": input_ids[None], **{k: v for k, v in given.items() if k in self.accepted}}
        index = None if self.reads == "all" else self.read_index(input_ids, layout)
        if index is not None and self.can_cut(index, layout):
            if self.is_cut is None and not (self.base.training or torch.is_grad_enabled()):
                self.is_cut = self.try_cut(given, layout, index)
            if self.is_cut:
                return self.computed(given, layout, index)[:, None], torch.ones_like(index, dtype=torch.bool)[:, None]
        hidden = self.computed(given, layout)  # (tokens, hidden)
        if index is None:
            index = torch.arange(layout.longest, device=hidden.device)
            real = index < layout.cu_seqlens.diff()[:, None]
            return hidden[torch.where(real, layout.first[:, None] + index, layout.filler)], real
        return hidden[index][:, None], torch.ones_like(index, dtype=torch.bool)[:, None]

    def copy_to(self, base: Any) -> GenericEncoder:
        """The same of a copy of the base model, which has the same last layer."""
        copied = GenericEncoder(base, self.reads)
        copied.attentions, copied.is_cut = self.attentions, self.is_cut
        return copied

    def computed(self, given: dict[str, Any], layout: Layout, index: Tensor | None = None) -> Tensor:
        """What the base model makes of its inputs, (tokens, hidden), or (batch, hidden) of the tokens of an index."""
        with surrounded(lambda: self.attention(layout)):
            rows = _rows.get()
            with nullcontext() if index is None else self.cut_layer(rows, index):
                hidden: Tensor = self.base(**given)[0][0]
            if index is None:
                self.attentions = rows.attended
            return hidden if index is None or rows.seen is not None else hidden[index]

    def can_cut(self, index: Tensor, layout: Layout) -> bool:
        """Whether the last layer may end with the tokens of this index, if it is such a layer."""
        if self.is_cut is False or self.last_layer is None or index.is_cuda:
            return False
        if self.base.training and recomputes(self.base):
            return False
        return self.reads == "first" or torch.equal(index, layout.cu_seqlens[1:] - 1)  # which sees all of its row

    def try_cut(self, given: dict[str, Any], layout: Layout, index: Tensor) -> bool:
        """Whether a last layer that is cut gives what a whole one does."""
        wanted = self.computed(given, layout)[index]
        try:
            got = self.computed(given, layout, index)
        except (AttributeError, DonguError, LookupError, RuntimeError, TypeError, ValueError):  # it is called otherwise
            return False
        return got.shape == wanted.shape and bool((got - wanted).abs().max() <= _ROUNDING * wanted.abs().max())

    @contextmanager
    def cut_layer(self, rows: FlatRows, index: Tensor) -> Iterator[None]:
        """Within the block the last layer takes all tokens, and gives those of the index, if it attends last of all."""
        layer: Any = self.last_layer
        own, tokens = layer.forward, len(rows.layout.row)

        def cut(given: Any) -> Any:
            if isinstance(given, tuple):
                return tuple(map(cut, given))
            by_token = isinstance(given, Tensor) and given.shape[:2] == (1, tokens)
            return given.index_select(1, index) if by_token else given

        def forward(*args: Any, **kwargs: Any) -> Any:
            if rows.attended + 1 != self.attentions:
                return own(*args, **kwargs)
            rows.stops = self.reads
            try:
                return own(*args, **kwargs)
            except KeysSeenError:
                return own(*map(cut, args), **{name: cut(value) for name, value in kwargs.items()})
            finally:
                rows.stops = None

        layer.forward = forward
        try:
            yield
        finally:
            del layer.forward

    def read_index(self, input_ids: Tensor, layout: Layout) -> Tensor:
        """Index of the token of each row that the head reads, (batch,)."""
        return layout.first if self.reads == "first" else self.last(input_ids, layout)

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
            token = _rows.set(FlatRows(layout))
            try:
                for config, _ in own:
                    config._attn_implementation = NAME
                yield
            finally:
                _rows.reset(token)
                for config, implementation in own:
                    config._attn_implementation = implementation


def layers_of(model: Any) -> list[nn.Module]:
    """The layers of a model, of its encoder and its decoder: the longest lists of modules of one class."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len({type(part) for part in m}) == 1]
    inner = {id(part) for outer in lists for part in outer.modules() if part is not outer}
    return [layer for each in lists if id(each) not in inner for layer in each]


class Read(nn.Module):
    """What a classifier gets from its base model, which has computed before: the tokens that its head reads.

    A module, as whoever walks over those of a classifier expects.
    """

    def __init__(self, hidden: Tensor, pooled: Tensor | None) -> None:
        super().__init__()
        self.hidden, self.pooled = hidden, pooled  # (batch, read, hidden), (batch, hidden)

    def forward(self, *_: Any, **__: Any) -> Any:
        """Whatever is asked."""
        from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

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
    rows = _rows.get()
    rows.attended += 1
    layout, dropped = rows.of_heads(heads), nn.Dropout(dropout)
    if rows.seen is not None:  # q is of the tokens that are read, which see all that their window holds
        k, v, window = rows.seen
        context = attend(q, k, v, layout, dropped, window=window)
    elif softcap is None and s_aux is None:
        far = window is None or window >= layout.longest - 1
        if (rows.stops == "first" and not causal) or (rows.stops == "last" and far):
            rows.seen = k, v, None if far else window
            raise KeysSeenError
        context = attend(q, k, v, layout, dropped, window=window, causal=causal == 1)
    else:
        context = attend_beyond(
            q, k, v, layout, dropped, window=window, causal=causal == 1, softcap=softcap, sinks=s_aux
        )
    return context.view(1, len(q), heads, -1), None


@cache
def register_attention() -> None:
    """Have transformers know this attention. It is not imported at the head: BERT's kind can do without."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend_rows)
    AttentionMaskInterface.register(NAME, band_of_rows)
