"""Real tokens only between the embeddings and the head.

A padded batch spends a third of its time on padding, and every layer but the last is computed for tokens that no head
ever reads. Here the rows of a micro-batch lie one after the other as (tokens, hidden); embeddings, Linear and
LayerNorm work on them as they are, and attention alone is told where a row begins and ends. In the last layer the
tokens that the head reads ask, and the others only answer. The weights, and so what is saved, are the model's own:
its modules are called by the names that its checkpoint has. Nothing in transformers is replaced or registered.

`why_not` names the models that this does not cover, `self_check` compares with the model's own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from dongu.engine.dropout import comparable, draw, drop, keep, levels, scale
from dongu.engine.graphs import HOOKED, Graphs, Shape, has_hooks
from dongu.engine.modes import kept_modes
from dongu.engine.products import fast_products, has_fast_products
from dongu.errors import DonguError, ModelError

HALF = (torch.bfloat16, torch.float16)
SIZES_AN_OCTAVE = {"cpu": 16, "cuda": 8}  # of the numbers of tokens that occur, where few shall occur
REACH_STEP = 128  # tokens that a block of flash attention takes at a time
FILLERS_A_ROW = 64  # more would be attention's longest rows
CELLS_OF_PADDING = 6000  # cost attention as much as one more block does (`benchmarks/pieces.py`)
MASKED = -1e30  # added to a score: none of its weight is left, and where a row sees nothing at all there is no NaN
TOLERANCE = 1e-4  # of the self-check in fp32: rounding is below a hundredth of it, a wrong layout far above
TOLERANCE_IN_HALF = 0.2  # of that in bf16, where rounding may be some hundredths


@dataclass(frozen=True)
class Rows:
    """Where each row of a micro-batch lies: shorter rows first, so that rows of like lengths are neighbours.

    After them comes at least one filler, a token that no row contains and no logit depends on; on CUDA fillers are rows
    of their own. A filler is what attention reads where a row of a block has ended; no gradient comes back to it.
    """

    heads: int  # of attention
    rounded: bool  # whether sizes are rounded up, so that few different ones occur
    lengths: tuple[int, ...]  # tokens of each row, in order of length; () where nothing may depend on them
    reach: int  # tokens of the longest row, or some more
    spare: int  # a filler, or a token of the caller's last row
    source: Tensor  # (tokens,) place of each token in the caller's flat order; of fillers, the one after all
    row: Tensor  # (tokens,) the row that a token belongs to
    position: Tensor  # (tokens,) from 0 in every row
    offsets: Tensor  # (batch + 1,) where rows begin, and the end
    place: Tensor  # (batch,) where the caller's rows are in the order of length

    @staticmethod
    def of(lengths: Sequence[int], heads: int, rounded: bool = False, fillers: int | None = None) -> Rows:
        """The layout of rows with so many tokens each, on the host.

        Args:
            lengths: tokens of each row.
            heads: of the model's attention.
            rounded: whether fillers bring the number of tokens up to one of `SIZES_AN_OCTAVE`.
            fillers: their number, if it is not the least; at 0 the last row must be one that no logit depends on.
        """
        given = np.asarray(lengths, dtype=np.int64)
        order = np.argsort(given, kind="stable")
        ordered = given[order]
        row = np.repeat(np.arange(len(given)), ordered)
        offsets = np.concatenate([[0], np.cumsum(ordered)])
        position = np.arange(len(row)) - offsets[row]
        source = (np.cumsum(given) - given)[order][row] + position
        place = np.argsort(order)
        spare = int(offsets[place[-1]])
        if fillers is None:
            fillers = 1 + -(len(row) + 1) % (step_of(len(row), "cpu") if rounded else 1)
            spare = len(row) + fillers - 1
        source = np.pad(source, (0, fillers), constant_values=len(row))
        row, position = (np.pad(array, (0, fillers)) for array in (row, position))
        tensors = map(torch.from_numpy, (source, row, position, offsets, place))
        reach = min(-(-int(ordered[-1]) // REACH_STEP) * REACH_STEP, len(row))
        return Rows(heads, rounded, tuple(ordered.tolist()), reach, spare, *tensors)

    def to(self, device: torch.device) -> Rows:
        """With its tensors there."""
        tensors = (self.source, self.row, self.position, self.offsets, self.place)
        there = (tensor.to(device) for tensor in tensors)
        return Rows(self.heads, self.rounded, self.lengths, self.reach, self.spare, *there)

    @property
    def tokens(self) -> int:
        """Without fillers."""
        return sum(self.lengths)

    @property
    def first(self) -> Tensor:
        """The first token of each row, (batch,)."""
        return self.offsets[:-1]

    @cached_property
    def ends(self) -> Tensor:
        """`offsets` as a GPU's attention takes them, int32."""
        return self.offsets.int()

    @cached_property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """(rows, longest) of the neighbours that attention computes together, in the order of the rows.

        Raises:
            ModelError: nothing may depend on the lengths.
        """
        if not self.lengths:
            raise ModelError("its attention is laid out anew for each micro-batch")
        step = 16 if self.rounded else 1
        blocks: list[tuple[int, int]] = []
        spare = 0
        for length in reversed(self.lengths):
            if blocks and (padding := blocks[-1][1] ** 2 - length**2) <= spare:
                spare -= padding
                blocks[-1] = (blocks[-1][0] + 1, blocks[-1][1])
            else:
                spare = CELLS_OF_PADDING
                blocks.append((1, -(-length // step) * step))
        return tuple(reversed(blocks))

    @property
    def longest(self) -> int:
        """Tokens of the longest row as attention sees it."""
        return self.blocks[-1][1]

    @cached_property
    def cells(self) -> Cells:
        """Where attention finds the tokens."""
        return Cells.of(self)

    def mean(self, hidden: Tensor) -> Tensor:
        """The mean over each row's tokens, (tokens, hidden) → (batch, hidden)."""
        count = self.offsets.diff()[:, None]  # (batch, 1)
        place = torch.arange(len(hidden), device=hidden.device)
        inside = (place >= self.first[:, None]) & (place < self.offsets[1:, None])  # (batch, tokens)
        with torch.autocast(hidden.device.type, enabled=False):
            return (inside / count).to(hidden.dtype) @ hidden


def step_of(tokens: int, device: str) -> int:
    """From one of the sizes near this number of tokens to the next, where `SIZES_AN_OCTAVE` occur."""
    return int(2 ** max(0, tokens.bit_length() - SIZES_AN_OCTAVE[device].bit_length()))


@dataclass(frozen=True)
class Cells:
    """The tokens of a micro-batch in dense blocks, (rows, heads, longest) each, one after the other.

    Both places count a token once for each head: token * heads + head.
    """

    tokens: Tensor  # (cells,) what is in each cell; where a row has ended, the spare one
    places: Tensor  # (tokens * heads,) the cell that each is in; of fillers any
    masks: tuple[Tensor, ...]  # of each block, (rows * heads, 1, longest): MASKED where a row has ended, else 0

    @staticmethod
    def of(rows: Rows) -> Cells:
        """The blocks of these rows."""
        lengths, head = np.array(rows.lengths), np.arange(rows.heads)
        tokens, places, masks = [], [], []
        row = token = cell = 0
        for count, longest in rows.blocks:
            real = np.arange(longest) < lengths[row : row + count, None]  # (rows, longest)
            laid = np.full(real.shape, rows.spare)
            laid[real] = np.arange(token, token + real.sum())
            tokens.append((laid[:, None] * rows.heads + head[:, None]).ravel())
            first = cell + np.arange(count)[:, None] * rows.heads * longest + np.arange(longest)  # of head 0
            places.append((first[real][:, None] + head * longest).ravel())
            masks.append(np.where(real, np.float32(0), np.float32(MASKED)).repeat(rows.heads, axis=0)[:, None])
            row, token, cell = row + count, token + int(real.sum()), cell + real.size * rows.heads
        fillers = np.zeros((len(rows.row) - token) * rows.heads, dtype=np.int64)
        arrays = (np.concatenate(tokens), np.concatenate([*places, fillers]), *masks)
        on_device = [torch.from_numpy(array).to(rows.row.device, non_blocking=True) for array in arrays]
        return Cells(on_device[0], on_device[1], tuple(on_device[2:]))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Rows,
    dropout: Any,
    *,
    bias: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """Attention inside each row.

    Args:
        query: (tokens, heads, head_dim), or (batch, heads, head_dim) where only the first token of each row asks.
        key: (tokens, heads, head_dim), like value.
        value: what is averaged.
        rows: the layout.
        dropout: the module that drops weights.
        bias: added to the scores, (heads, longest, longest).
        window: how many tokens away a token still sees.

    Returns:
        (tokens, heads * head_dim), or (batch, heads * head_dim).
    """
    if query.is_cuda and bias is None:
        share = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
        if has_flash(query) and (window is None or len(query) == len(key)):
            return flash_attention(query, key, value, rows, share, window).flatten(1)
        if query.dtype == torch.float32 and window is None:
            return efficient_attention(query, key, value, rows, share).flatten(1)
    if window is not None and window < rows.longest - 1:
        place = torch.arange(rows.longest, device=query.device)
        far = (place[:, None] - place).abs() > window
        bias = torch.zeros(rows.heads, *far.shape, device=query.device).masked_fill(far, MASKED)
    with torch.autocast(query.device.type, enabled=False):
        answer = Attention.apply(query, key, value, bias, rows, levels(dropout))  # type: ignore[no-untyped-call]
    return answer.flatten(1)  # type: ignore[no-any-return]


class Attention(torch.autograd.Function):
    """Softmax attention in each row, with its backward: rows of like lengths together, as dense products.

    By hand, because the graph of some fifteen operations for each block costs as much as they. In the precision of
    its input, but for softmax, which PyTorch computes in fp32 at least.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, rows: Rows, dropped: int
    ) -> Tensor:
        first_only = len(query) < len(key)
        q, k, v = query.flatten(0, 1) if first_only else lay(query, rows), lay(key, rows), lay(value, rows)
        answer = torch.empty_like(q)
        counts = [n * rows.heads * (1 if first_only else longest) * longest for n, longest in rows.blocks]
        ctx.sizes = counts if dropped else [0] * len(counts)  # of each block's draws
        ctx.draws, ctx.weights = draw(sum(ctx.sizes), query.device), []
        blocks = zip(*(by_block(x, rows) for x in (q, k, v, answer)), strict=True)
        for (q_, k_, v_, target), mask, drawn in zip(blocks, rows.cells.masks, ctx.draws.split(ctx.sizes), strict=True):
            scores = torch.baddbmm(added(mask, bias, q_), q_, k_.transpose(1, 2), alpha=query.shape[-1] ** -0.5)
            weights = torch.softmax(scores, dim=-1)  # (rows * heads, asking, longest)
            kept = keep(weights, comparable(drawn, weights.dtype), dropped)
            torch.baddbmm(target, kept, v_, beta=0, alpha=scale(dropped), out=target)
            ctx.weights.append(weights)
        ctx.save_for_backward(q, k, v)
        ctx.rows, ctx.dropped, ctx.first_only = rows, dropped, first_only
        ctx.bias = bias if bias is not None and ctx.needs_input_grad[3] else None
        return answer.view(query.shape) if first_only else take_up(answer, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, dropped = ctx.rows, ctx.dropped
        q, k, v = ctx.saved_tensors
        g = gradient.flatten(0, 1) if ctx.first_only else lay(gradient, rows)
        to_q, to_k, to_v = (torch.empty_like(x) for x in (q, k, v))
        to_bias = None if ctx.bias is None else torch.zeros_like(ctx.bias)
        share = scale(dropped) * q.shape[-1] ** -0.5
        blocks = zip(*(by_block(x, rows) for x in (q, k, v, g, to_q, to_k, to_v)), strict=True)
        for (q_, k_, v_, g_, *wanted), weights, drawn in zip(
            blocks, ctx.weights, ctx.draws.split(ctx.sizes), strict=True
        ):
            to_q_, to_k_, to_v_ = wanted
            drawn = comparable(drawn, weights.dtype)
            to_weights = keep(torch.bmm(g_, v_.transpose(1, 2)), drawn, dropped)
            to_scores = torch.ops.aten._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            kept = keep(weights, drawn, dropped)
            torch.baddbmm(to_v_, kept.transpose(1, 2), g_, beta=0, alpha=scale(dropped), out=to_v_)
            torch.baddbmm(to_k_, to_scores.transpose(1, 2), q_, beta=0, alpha=share, out=to_k_)
            torch.baddbmm(to_q_, to_scores, k_, beta=0, alpha=share, out=to_q_)
            if to_bias is not None:
                asking, longest = to_scores.shape[1:]
                by_head = to_scores.view(-1, rows.heads, asking, longest).sum(0, dtype=to_bias.dtype)
                to_bias[:, :asking, :longest].add_(by_head, alpha=scale(dropped))
        to_query = to_q.view(gradient.shape) if ctx.first_only else take_up(to_q, rows)
        return to_query, take_up(to_k, rows), take_up(to_v, rows), to_bias, None, None


def lay(flat: Tensor, rows: Rows) -> Tensor:
    """Into the cells of the blocks, (tokens, heads, head_dim) → (cells, head_dim)."""
    return flat.flatten(0, 1).index_select(0, rows.cells.tokens)


def take_up(laid: Tensor, rows: Rows) -> Tensor:
    """The reverse of `lay`; zero for fillers."""
    flat = laid.index_select(0, rows.cells.places).view(-1, rows.heads, laid.shape[-1])
    flat[rows.tokens :] = 0
    return flat


def by_block(laid: Tensor, rows: Rows) -> list[Tensor]:
    """A view for each block, (rows * heads, longest, head_dim), or with one token a row where no others ask."""
    each = len(laid) == len(rows.lengths) * rows.heads
    shapes = [(count * rows.heads, 1 if each else longest) for count, longest in rows.blocks]
    parts = torch.split(laid, [batch * length for batch, length in shapes])
    return [part.view(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]


def added(mask: Tensor, bias: Tensor | None, query: Tensor) -> Tensor:
    """What the scores of a block begin with: its mask, and a bias of (heads, longest, longest)."""
    if bias is not None:
        asking, longest = query.shape[1], mask.shape[-1]
        mask = (mask.view(-1, len(bias), 1, longest) + bias[:, :asking, :longest]).flatten(0, 1)
    return mask.to(query.dtype)


def has_flash(query: Tensor) -> bool:
    """Whether flash attention takes such queries on this GPU."""
    modern = torch.cuda.get_device_capability(query.device) >= (8, 0)
    return modern and query.dtype in HALF and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256


def flash_attention(query: Tensor, key: Tensor, value: Tensor, rows: Rows, share: float, window: int | None) -> Tensor:
    """PyTorch's flash attention over rows of any length; `varlen_attn` is the same without dropout."""
    first_only = len(query) < len(key)
    answer, *_ = torch.ops.aten._flash_attention_forward(
        query, key, value, _asked(rows, first_only), rows.ends, 1 if first_only else rows.reach, rows.reach, share,
        False, False, window_size_left=window, window_size_right=window,
    )  # fmt: skip
    return answer  # type: ignore[no-any-return]


def efficient_attention(query: Tensor, key: Tensor, value: Tensor, rows: Rows, share: float) -> Tensor:
    """PyTorch's memory-efficient attention over rows of any length, which has fp32."""
    first_only = len(query) < len(key)
    answer, *_ = torch.ops.aten._efficient_attention_forward(
        query[None], key[None], value[None], None, _asked(rows, first_only), rows.ends,
        1 if first_only else rows.reach, rows.reach, share, 0, True,
    )  # fmt: skip
    return answer[0]  # type: ignore[no-any-return]


def _asked(rows: Rows, first_only: bool) -> Tensor:
    """Where the queries of each row begin, and the end, int32."""
    return torch.arange(len(rows.ends), dtype=torch.int32, device=rows.ends.device) if first_only else rows.ends


@dataclass(frozen=True)
class PostNormLayer:
    """The layer of BERT and its kind: attention, add, norm; feed-forward, add, norm."""

    heads: int
    query: Any
    key: Any
    value: Any
    attention_dropout: Any
    attention_out: Any
    attention_out_dropout: Any
    attention_norm: Any
    up: Any  # with its activation
    down: Any
    down_dropout: Any
    norm: Any

    def __call__(self, hidden: Tensor, rows: Rows, bias: Tensor | None, asking: Tensor | None = None) -> Tensor:
        """(tokens, hidden) → the same, or (batch, hidden) for the tokens that ask."""
        queries = hidden if asking is None else hidden.index_select(0, asking)
        given = in_autocast(hidden)
        q, k, v = self.query(given if asking is None else queries), self.key(given), self.value(given)
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in (q, k, v))  # (tokens, heads, head_dim)
        context = self.attention_out(attend(q, k, v, rows, self.attention_dropout, bias=bias))
        hidden = self.attention_norm(drop(context, self.attention_out_dropout) + queries)
        return self.norm(drop(self.down(self.up(hidden)), self.down_dropout) + hidden)  # type: ignore[no-any-return]


def in_autocast(hidden: Tensor) -> Tensor:
    """In the precision that products have here: cast once for all that take it."""
    device = hidden.device.type
    return hidden.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else hidden


def bert_layer(layer: Any, heads: int) -> PostNormLayer:
    """BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA."""
    own, out, down = layer.attention.self, layer.attention.output, layer.output
    return PostNormLayer(
        heads, own.query, own.key, own.value, own.dropout, out.dense, out.dropout, out.LayerNorm,
        layer.intermediate, down.dense, down.dropout, down.LayerNorm,
    )  # fmt: skip


def mpnet_layer(layer: Any, heads: int) -> PostNormLayer:
    """MPNet."""
    out, own, down = layer.attention, layer.attention.attn, layer.output
    return PostNormLayer(
        heads, own.q, own.k, own.v, own.dropout, own.o, out.dropout, out.LayerNorm,
        layer.intermediate, down.dense, down.dropout, down.LayerNorm,
    )  # fmt: skip


def distilbert_layer(layer: Any, heads: int) -> PostNormLayer:
    """DistilBERT."""
    own, feed = layer.attention, layer.ffn
    return PostNormLayer(
        heads, own.q_lin, own.k_lin, own.v_lin, own.dropout, own.out_lin, nn.Identity(), layer.sa_layer_norm,
        lambda hidden: feed.activation(feed.lin1(hidden)), feed.lin2, feed.dropout, layer.output_layer_norm,
    )  # fmt: skip


class PostNormEncoder:
    """Embeddings and layers of BERT's kind, up to what the head reads."""

    def __init__(self, base: Any, layers: Iterable[Any], spell: Callable[[Any, int], PostNormLayer]) -> None:
        self.base = base
        self.layers = [spell(layer, base.config.num_attention_heads) for layer in layers]

    def __call__(self, input_ids: Tensor, token_type_ids: Tensor | None, rows: Rows) -> Tensor:
        """(tokens,) each → (batch, hidden)."""
        hidden = self.embed(input_ids, token_type_ids, rows)
        bias = None
        if hasattr(self.base, "encoder") and hasattr(self.base.encoder, "compute_position_bias"):  # MPNet
            bias = self.base.encoder.compute_position_bias(hidden.new_empty(1, rows.longest))[0]
        for layer in self.layers[:-1]:
            hidden = layer(hidden, rows, bias)
        return self.layers[-1](hidden, rows, bias, asking=rows.first)

    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None, rows: Rows) -> Tensor:
        """(tokens,) each → (tokens, hidden)."""
        own = self.base.embeddings
        hidden = own.word_embeddings(input_ids)
        if hasattr(own, "token_type_embeddings"):
            types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            hidden = hidden + own.token_type_embeddings(types)
        position = rows.position
        if (padding := own.position_embeddings.padding_idx) is not None:
            # RoBERTa's kind counts from the padding index on, and counts real tokens only.
            real = (input_ids != padding).long()  # fillers are padding
            before = real.cumsum(0) - real
            position = (before - before[rows.first][rows.row] + 1) * real + padding
        hidden = drop(own.LayerNorm(hidden + own.position_embeddings(position)), own.dropout)
        project = getattr(self.base, "embeddings_project", nn.Identity())  # ELECTRA
        return project(hidden)  # type: ignore[no-any-return]


class ModernBertEncoder:
    """ModernBERT: norm first, rotary positions, and in most layers a window on the neighbours."""

    def __init__(self, base: Any) -> None:
        self.base = base
        self.reads_first = base.config.classifier_pooling == "cls"
        for layer in base.layers:  # missing names are found here, not in the first step
            _ = layer.attn.Wqkv, layer.attn.Wo, layer.attn.out_drop, layer.mlp.Wi, layer.mlp.Wo, layer.mlp.drop

    def __call__(self, input_ids: Tensor, token_type_ids: Tensor | None, rows: Rows) -> Tensor:  # noqa: ARG002
        """(tokens,) → (batch, hidden)."""
        base, own = self.base, self.base.embeddings
        hidden = drop(own.norm(own.tok_embeddings(input_ids)), own.drop)
        turns = {
            kind: [x[0].unsqueeze(1) for x in base.rotary_emb(hidden, rows.position[None], kind)]
            for kind in set(base.config.layer_types)
        }  # cosine and sine, (tokens, 1, head_dim)
        for layer in base.layers[:-1]:
            hidden = self.layer(layer, hidden, rows, turns[layer.attention_type])
        last = base.layers[-1]
        asking = rows.first if self.reads_first else None
        hidden = base.final_norm(self.layer(last, hidden, rows, turns[last.attention_type], asking))
        return hidden if self.reads_first else rows.mean(hidden)

    def layer(
        self, layer: Any, hidden: Tensor, rows: Rows, turn: Sequence[Tensor], asking: Tensor | None = None
    ) -> Tensor:
        """(tokens, hidden) → the same, or (batch, hidden) for the tokens that ask."""
        own, feed = layer.attn, layer.mlp
        q, k, v = own.Wqkv(layer.attn_norm(hidden)).unflatten(-1, (3, -1, own.head_dim)).unbind(1)
        q, k = (self.rotate(x, *turn) for x in (q, k))
        if asking is not None:
            q, hidden = q.index_select(0, asking), hidden.index_select(0, asking)
        dropout = nn.Dropout(own.attention_dropout).train(own.training)
        window = None if own.sliding_window is None else own.sliding_window - 1  # flash attention's, which excludes
        context = attend(q, k, v, rows, dropout, window=window)
        hidden = hidden + drop(own.Wo(context), own.out_drop)
        up, gate = feed.Wi(layer.mlp_norm(hidden)).chunk(2, dim=-1)
        return hidden + feed.Wo(drop(feed.act(up) * gate, feed.drop))  # type: ignore[no-any-return]

    @staticmethod
    def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Turn each pair (i, i + head_dim / 2) by the angle of its position."""
        low, high = x.chunk(2, dim=-1)
        return (x * cosine + torch.cat([-high, low], dim=-1) * sine).to(x.dtype)


@dataclass(frozen=True)
class Family:
    """What a `model_type` stands for: the class that is meant, how its encoder is computed, what its head reads."""

    name: str
    encoder: Callable[[Any], Any]  # of the base model
    head: Callable[[Any, Tensor], Any]  # of the model and (batch, hidden)

    @staticmethod
    def like_roberta(name: str, spell: Callable[[Any, int], PostNormLayer] = bert_layer) -> Family:
        """A head of one module, which takes the first of (batch, tokens, hidden)."""
        return Family(
            f"{name}ForSequenceClassification",
            lambda base: PostNormEncoder(base, base.encoder.layer, spell),
            lambda model, read: model.classifier(read[:, None]),
        )


FAMILIES = {
    "bert": Family(
        "BertForSequenceClassification",
        lambda base: PostNormEncoder(base, base.encoder.layer, bert_layer),
        lambda model, read: model.classifier(model.dropout(model.base_model.pooler(read[:, None]))),
    ),
    "distilbert": Family(
        "DistilBertForSequenceClassification",
        lambda base: PostNormEncoder(base, base.transformer.layer, distilbert_layer),
        lambda model, read: model.classifier(model.dropout(F.relu(model.pre_classifier(read)))),
    ),
    "modernbert": Family(
        "ModernBertForSequenceClassification",
        ModernBertEncoder,
        lambda model, read: model.classifier(model.drop(model.head(read))),
    ),
    "camembert": Family.like_roberta("Camembert"),
    "electra": Family.like_roberta("Electra"),
    "mpnet": Family.like_roberta("MPNet", mpnet_layer),
    "roberta": Family.like_roberta("Roberta"),
    "xlm-roberta": Family.like_roberta("XLMRoberta"),
}


def why_not(model: Any, padding_side: str = "right") -> str | None:
    """What keeps this model from being computed without padding, in a few words; None where nothing does."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"`{config.model_type}` has no padding-free form here"
    family = FAMILIES[config.model_type]
    if type(model).__name__ != family.name or not type(model).__module__.startswith("transformers.models."):
        return f"it is a {type(model).__name__}, not transformers' {family.name}"
    if padding_side != "right":
        return "its tokenizer pads on the left, where positions and the first token depend on the padding"
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        return "it is a decoder, whose tokens do not see each other"
    if getattr(config, "classifier_pooling", "cls") not in ("cls", "mean"):
        return f"its head pools by `{config.classifier_pooling}`"
    if config.model_type == "bert" and model.base_model.pooler is None:
        return "it has no pooler"
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return "it recomputes activations (gradient checkpointing)"
    if torch.nn.modules.module._has_any_global_hook():  # type: ignore[no-untyped-call]
        return "somebody watches all modules (a global hook)"
    for path, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        if any(hooks) or "forward" in vars(module):
            return f"somebody watches or replaces the forward or the backward of `{path or family.name}`"
    try:
        family.encoder(model.base_model)
    except AttributeError as error:
        return f"its layers are not those of {config.model_type} ({error})"
    return None


class PaddingFree(nn.Module):
    """A sequence classifier that takes flat rows; the classifier inside is untouched and shares all weights.

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
        # What fillers are. No logit depends on it, but RoBERTa's kind of positions tells real tokens by it.
        positions = getattr(classifier.base_model.embeddings, "position_embeddings", None)
        self._padding = getattr(positions, "padding_idx", None) or 0

    @property
    def config(self) -> Any:
        """The classifier's own."""
        return self.classifier.config

    def forward(
        self, input_ids: Tensor, lengths: Tensor, token_type_ids: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Logits of each row.

        Args:
            input_ids: (tokens,), the rows one after the other; best on the host, whatever the model's device.
            lengths: (batch,), tokens of each row; on the host, or the device is waited for.
            token_type_ids: (tokens,), like `input_ids`.

        Returns:
            `logits` (batch, labels), in the order of the rows, on the model's device.
        """
        device = self.classifier.device
        if device.type == "cuda":
            types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            numbers, shape, rows = self._as_one_tensor(input_ids.cpu(), types.cpu(), lengths.cpu())  # DDP moves all
            if self.graphs is not None and self.classifier.training and torch.is_grad_enabled():
                return SequenceClassifierOutput(logits=self.graphs(numbers, shape))
            return SequenceClassifierOutput(logits=self._compute(numbers.to(device, non_blocking=True), shape, rows))
        # Few different sizes: oneDNN compiles its products for each.
        rounded = torch.is_autocast_enabled("cpu") or has_fast_products()
        rows = Rows.of(lengths.tolist(), self.config.num_attention_heads, rounded).to(device)
        ids = F.pad(input_ids.to(device), (0, 1), value=self._padding)[rows.source]
        kinds = None if token_type_ids is None else F.pad(token_type_ids.to(device), (0, 1))[rows.source]
        with fast_products(device):
            read = self.encoder(ids, kinds, rows)  # (batch, hidden), in order of length
        return SequenceClassifierOutput(logits=self.head(self.classifier, read)[rows.place])

    def _as_one_tensor(self, input_ids: Tensor, types: Tensor, lengths: Tensor) -> tuple[Tensor, Shape, Rows]:
        """What a GPU needs to know of a micro-batch: (numbers,) int64 to send in one piece, and its shape.

        Fillers are short rows after the others, so that attention has no tokens besides those of rows.
        """
        step = step_of(len(input_ids), "cuda")
        more = -(-step // FILLERS_A_ROW)
        fillers = more + -(len(input_ids) + more) % step
        added = [len(part) for part in np.array_split(np.empty(fillers), more)]
        rows = Rows.of([*lengths.tolist(), *added], self.config.num_attention_heads, rounded=True, fillers=0)
        parts = (
            F.pad(input_ids, (0, fillers), value=self._padding), F.pad(types, (0, fillers)), rows.source, rows.row,
            rows.position % lengths.max(),  # which the model has
            rows.offsets, rows.place,
        )  # fmt: skip
        return torch.cat(parts).pin_memory(), (len(rows.row), len(lengths), more, rows.reach), rows

    def _compute(self, numbers: Tensor, shape: Shape, known: Rows | None = None) -> Tensor:
        """(batch, labels) of what `_as_one_tensor` made, on its device; from its shape alone if not more is known."""
        tokens, batch, more, reach = shape
        input_ids, types, *layout = torch.split(numbers, [tokens] * 5 + [batch + more + 1, batch + more])
        lengths, spare = ((), 0) if known is None else (known.lengths, known.spare)
        rows = Rows(self.config.num_attention_heads, True, lengths, reach, spare, *layout)
        read = self.encoder(input_ids[rows.source], types[rows.source], rows)
        return self.head(self.classifier, read)[rows.place[:batch]]  # type: ignore[no-any-return]

    def record(self, inputs: Mapping[str, Tensor]) -> str | None:
        """Replay training steps from recordings from here on; or what keeps this model from it, in a few words.

        Args:
            inputs: padded ones of some rows, which are tried.
        """
        if has_hooks(self.classifier.parameters()):
            self.graphs = None
            return HOOKED
        self.graphs = Graphs(self._compute, list(self.classifier.parameters()), list(self.classifier.modules()))
        with kept_modes(self):
            self.train()
            try:
                self(**flatten(inputs))
            except (DonguError, RuntimeError) as error:
                self.graphs = None
                return (str(error) or type(error).__name__).splitlines()[0]
        return None


def flatten(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Padded inputs, (batch, tokens) each, as flat ones.

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
    """The model in its padding-free form, or as it is and the reason, after a comparison on padded inputs.

    It is made in fp32, and again in the precision of `autocast`, where other kernels may compute.
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
        except RuntimeError as error:  # a kernel that this device has not
            return model, f"it cannot be computed so here ({(str(error) or type(error).__name__).splitlines()[0]})"
        if not difference <= tolerance:  # or it is no number
            return model, f"its logits would differ by {difference:.1g} of their size"
    return packed, None
