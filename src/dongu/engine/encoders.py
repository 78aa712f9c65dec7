"""The encoders that are computed without padding, by the modules of transformers' models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dongu.engine.attention import attend
from dongu.engine.dropout import drop
from dongu.engine.layout import Rows


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
