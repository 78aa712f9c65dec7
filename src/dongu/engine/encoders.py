"""The encoders that are computed without padding, by the modules of transformers' models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dongu.engine.attention import attend
from dongu.engine.dropout import drop
from dongu.engine.layout import Layout, gather, scatter, split_blocks
from dongu.engine.recompute import as_layer


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

    def __call__(
        self, hidden: Tensor, layout: Layout, bias: Tensor | None, query_index: Tensor | None = None
    ) -> Tensor:
        """(tokens, hidden) → the same, or (queries, hidden) where only the tokens of `query_index` are queries."""
        queries = hidden if query_index is None else hidden.index_select(0, query_index)
        cast = in_autocast(hidden)
        q, k, v = self.query(cast if query_index is None else queries), self.key(cast), self.value(cast)
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in (q, k, v))  # (tokens, heads, head_dim)
        context = self.attention_out(attend(q, k, v, layout, self.attention_dropout, bias=bias))
        hidden = self.attention_norm(drop(context, self.attention_out_dropout) + queries)
        return self.norm(drop(self.down(self.up(hidden)), self.down_dropout) + hidden)  # type: ignore[no-any-return]


def in_autocast(hidden: Tensor) -> Tensor:
    """The hidden states in autocast's precision, cast once for query, key and value."""
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
    own, mlp = layer.attention, layer.ffn
    return PostNormLayer(
        heads, own.q_lin, own.k_lin, own.v_lin, own.dropout, own.out_lin, nn.Identity(), layer.sa_layer_norm,
        lambda hidden: mlp.activation(mlp.lin1(hidden)), mlp.lin2, mlp.dropout, layer.output_layer_norm,
    )  # fmt: skip


class PostNormEncoder:
    """Embeddings and layers of BERT's kind, up to what the head reads."""

    def __init__(self, base: Any, layers: Iterable[Any], make_layer: Callable[[Any, int], PostNormLayer]) -> None:
        self.base = base
        self.layers = [(layer, make_layer(layer, base.config.num_attention_heads)) for layer in layers]

    def __call__(self, input_ids: Tensor, token_type_ids: Tensor | None, layout: Layout) -> Tensor:
        """(tokens,) each → (batch, hidden)."""
        hidden = self.embed(input_ids, token_type_ids, layout)
        bias = None
        if hasattr(self.base, "encoder") and hasattr(self.base.encoder, "compute_position_bias"):  # MPNet
            bias = self.base.encoder.compute_position_bias(hidden.new_empty(1, layout.longest))[0]
        for own, layer in self.layers[:-1]:
            hidden = as_layer(own, layer, hidden, layout, bias)
        own, layer = self.layers[-1]
        return as_layer(own, layer, hidden, layout, bias, layout.first)  # type: ignore[no-any-return]

    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None, layout: Layout) -> Tensor:
        """(tokens,) each → (tokens, hidden)."""
        own = self.base.embeddings
        hidden = own.word_embeddings(input_ids)
        if hasattr(own, "token_type_embeddings"):
            types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            hidden = hidden + own.token_type_embeddings(types)
        position_ids = layout.position_ids
        if (padding := own.position_embeddings.padding_idx) is not None:
            position_ids = positions_after(padding, input_ids, layout)
        hidden = drop(own.LayerNorm(hidden + own.position_embeddings(position_ids)), own.dropout)
        project = getattr(self.base, "embeddings_project", nn.Identity())  # ELECTRA
        return project(hidden)  # type: ignore[no-any-return]


class DebertaEncoder:
    """DeBERTa, whose layers score positions relative to each other themselves, for rows of like lengths, padded."""

    def __init__(self, base: Any) -> None:
        self.base = base
        for layer in base.encoder.layer:
            _ = layer.attention.self, layer.attention.output, layer.intermediate, layer.output
        if getattr(base.encoder, "conv", None) is not None:
            raise AttributeError("one of them convolves over the neighbours of a token")

    def __call__(self, input_ids: Tensor, token_type_ids: Tensor | None, layout: Layout) -> Tensor:
        """(tokens,) each → (batch, hidden)."""
        own, encoder = self.base.embeddings, self.base.encoder
        types = None if token_type_ids is None else token_type_ids[None]
        hidden = own(input_ids=input_ids[None], token_type_ids=types, position_ids=layout.position_ids[None])[0]
        layout = replace(layout, heads=1)
        positions = {longest: encoder.get_rel_pos(hidden.new_empty(1, longest, 1)) for _, longest in layout.blocks}
        embeddings = encoder.get_rel_embedding()
        for layer in encoder.layer:
            query_index = layout.first if layer is encoder.layer[-1] else None
            hidden = as_layer(layer, self.layer, layer, hidden, layout, positions, embeddings, query_index)
        return hidden  # type: ignore[no-any-return]

    @staticmethod
    def layer(
        layer: Any, hidden: Tensor, layout: Layout, positions: Any, embeddings: Any, query_index: Tensor | None
    ) -> Tensor:
        """(tokens, hidden) → the same, or (queries, hidden) where only the tokens of `query_index` are wanted."""
        contexts, blocks = [], split_blocks(gather(hidden[:, None], layout), layout)
        for padded, mask in zip(blocks, layout.dense.masks, strict=True):  # (rows, longest, hidden), (rows, 1, longest)
            with near(layer.attention.self, padded.shape[1], embeddings) as rows:
                given = {"relative_pos": positions[padded.shape[1]], "rel_embeddings": rows}
                contexts.append(layer.attention.self(padded, mask[:, None] == 0, **given)[0].flatten(0, 1))
        context = scatter(torch.cat(contexts), layout)[:, 0]
        if query_index is not None:
            context, hidden = context[query_index], hidden[query_index]
        hidden = layer.attention.output(context, hidden)
        return layer.output(layer.intermediate(hidden), hidden)  # type: ignore[no-any-return]


@contextmanager
def near(own: Any, longest: int, embeddings: Tensor | None) -> Iterator[Tensor | None]:
    """The embeddings of the distances within so many tokens, (2 × distances, hidden); the layer takes no others.

    DeBERTa-v2 projects all 512 in each layer and multiplies them with each token, of which a short row reads few.
    """
    span = getattr(own, "pos_ebd_size", 0)  # the first DeBERTa does so itself
    if embeddings is None or longest >= span:
        yield embeddings
        return
    try:
        own.pos_ebd_size = longest
        yield embeddings[span - longest : span + longest]
    finally:
        own.pos_ebd_size = span


def positions_after(padding: int, input_ids: Tensor, layout: Layout) -> Tensor:
    """(tokens,) positions as RoBERTa's kind counts them: from the padding index on, and real tokens only."""
    real = (input_ids != padding).long()  # fillers are padding
    before = real.cumsum(0) - real
    return (before - before[layout.first][layout.row] + 1) * real + padding


class ModernBertEncoder:
    """ModernBERT: norm first, rotary positions, and in most layers a window on the neighbours."""

    def __init__(self, base: Any) -> None:
        self.base = base
        self.reads_first = base.config.classifier_pooling == "cls"
        for layer in base.layers:  # missing names are found here, not in the first step
            _ = layer.attn.Wqkv, layer.attn.Wo, layer.attn.out_drop, layer.mlp.Wi, layer.mlp.Wo, layer.mlp.drop

    def __call__(self, input_ids: Tensor, token_type_ids: Tensor | None, layout: Layout) -> Tensor:  # noqa: ARG002
        """(tokens,) → (batch, hidden)."""
        base, own = self.base, self.base.embeddings
        hidden = drop(own.norm(own.tok_embeddings(input_ids)), own.drop)
        rotary = {
            kind: [x[0].unsqueeze(1) for x in base.rotary_emb(hidden, layout.position_ids[None], kind)]
            for kind in set(base.config.layer_types)
        }  # cosine and sine, (tokens, 1, head_dim)
        for layer in base.layers[:-1]:
            hidden = as_layer(layer, self.layer, layer, hidden, layout, rotary[layer.attention_type])
        last = base.layers[-1]
        query_index = layout.first if self.reads_first else None
        given = (last, hidden, layout, rotary[last.attention_type], query_index)
        hidden = base.final_norm(as_layer(last, self.layer, *given))
        return hidden if self.reads_first else layout.mean(hidden)

    def layer(
        self, layer: Any, hidden: Tensor, layout: Layout, cos_sin: Sequence[Tensor], query_index: Tensor | None = None
    ) -> Tensor:
        """(tokens, hidden) → the same, or (queries, hidden) where only the tokens of `query_index` are queries."""
        own, mlp = layer.attn, layer.mlp
        q, k, v = own.Wqkv(layer.attn_norm(hidden)).unflatten(-1, (3, -1, own.head_dim)).unbind(1)
        q, k = (self.rotate(x, *cos_sin) for x in (q, k))
        if query_index is not None:
            q, hidden = q.index_select(0, query_index), hidden.index_select(0, query_index)
        dropout = nn.Dropout(own.attention_dropout).train(own.training)
        window = None if own.sliding_window is None else own.sliding_window - 1  # transformers' excludes its end
        context = attend(q, k, v, layout, dropout, window=window)
        hidden = hidden + drop(own.Wo(context), own.out_drop)
        up, gate = mlp.Wi(layer.mlp_norm(hidden)).chunk(2, dim=-1)
        return hidden + mlp.Wo(drop(mlp.act(up) * gate, mlp.drop))  # type: ignore[no-any-return]

    @staticmethod
    def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Rotary position embedding: rotates each pair (i, i + head_dim / 2) by the angle of its position."""
        low, high = x.chunk(2, dim=-1)
        return (x * cosine + torch.cat([-high, low], dim=-1) * sine).to(x.dtype)
