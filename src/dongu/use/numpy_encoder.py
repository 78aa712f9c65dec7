"""BERT and its kind in NumPy: forward alone, row by row, from a file of weights that is read a layer at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from dongu.data.tokens import Tokens

Module = tuple[np.ndarray, np.ndarray]  # weight and bias
ERROR_TAIL = np.array([1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592, 0], np.float32) / 2


def relu(x: np.ndarray) -> np.ndarray:
    """What is above 0."""
    return np.asarray(np.maximum(x, 0))


def gelu(x: np.ndarray) -> np.ndarray:
    """x Φ(x) in fp32; the tail of Φ is 7.1.26 of Abramowitz and Stegun, which is exact to 1e-7."""
    size = np.abs(x)
    tail = np.polyval(ERROR_TAIL, 1 / (1 + 0.3275911 * math.sqrt(0.5) * size)) * np.exp(-x * x / 2)
    return np.asarray(relu(x) - size * tail)


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"gelu": gelu, "relu": relu, "tanh": np.tanh}
BERT_LAYER = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip
DISTILBERT_LAYER = (
    "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
    "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm",
)  # fmt: skip
DISTILBERT_NAMES = {
    "dim": "hidden_size", "hidden_dim": "intermediate_size", "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads", "activation": "hidden_act",
}  # fmt: skip
OTHER_FORWARD = (
    "is_decoder", "add_cross_attention", "is_encoder_decoder", "pruned_heads", "chunk_size_feed_forward",
    "gradient_checkpointing",
)  # of config.json  # fmt: skip


@dataclass(frozen=True)
class BertKind:
    """What the modules of a `model_type` are called, and what its head does: `dense`, an activation, `out`.

    Positions that are `counted` count the tokens of a row that are no padding, and begin behind the padding's own.
    """

    base: str
    dense: str
    activation: str
    out: str
    counted: bool = False
    typed: bool = True  # whether a token says which text of a pair it is of
    layer: str = "encoder.layer"
    parts: tuple[str, ...] = BERT_LAYER


LIKE_ROBERTA = BertKind("roberta", "classifier.dense", "tanh", "classifier.out_proj", counted=True)
BERT_KINDS = {
    "bert": BertKind("bert", "bert.pooler.dense", "tanh", "classifier"),
    "camembert": LIKE_ROBERTA,
    "distilbert": BertKind(
        "distilbert", "pre_classifier", "relu", "classifier",
        typed=False, layer="transformer.layer", parts=DISTILBERT_LAYER,
    ),
    "electra": BertKind("electra", "classifier.dense", "gelu", "classifier.out_proj"),
    "roberta": LIKE_ROBERTA,
    "xlm-roberta": LIKE_ROBERTA,
}  # fmt: skip


@dataclass(frozen=True)
class NumpyEncoder:
    """A classifier by its kind, its config.json in BERT's words, and the number of its logits."""

    kind: BertKind
    config: Mapping[str, Any]
    labels: int

    @staticmethod
    def of(config: Mapping[str, Any], labels: int) -> NumpyEncoder | None:
        """The classifier of this config.json; None where it computes anything else than is known here.

        Raises:
            LookupError: a key is missing.
        """
        kind = BERT_KINDS.get(config["model_type"])
        if config["model_type"] == "distilbert":
            config = {"layer_norm_eps": 1e-12} | {DISTILBERT_NAMES.get(key, key): config[key] for key in config}
        if (
            kind is None
            or any(config.get(key) for key in OTHER_FORWARD)
            or config.get("position_embedding_type", "absolute") != "absolute"
            or config["hidden_act"] not in ACTIVATIONS
        ):
            return None
        return NumpyEncoder(kind, config, labels)

    @property
    def most_tokens(self) -> int:
        """Of a row, for which there are positions."""
        unused = self.config["pad_token_id"] + 1 if self.kind.counted else 0
        return int(self.config["max_position_embeddings"] - unused)

    @property
    def weights(self) -> int:
        """Those that each token is multiplied with."""
        return sum(math.prod(shape) for shape in self._modules.values())

    @property
    def _embeddings(self) -> str:
        return f"{self.kind.base}.embeddings"

    def _layers(self) -> list[list[str]]:
        """The names of the modules of each layer."""
        above = f"{self.kind.base}.{self.kind.layer}"
        return [[f"{above}.{i}.{part}" for part in self.kind.parts] for i in range(self.config["num_hidden_layers"])]

    @cached_property
    def _modules(self) -> dict[str, tuple[int, ...]]:
        """The shape of the weight of each module that has a bias too."""
        hidden, inner = self.config["hidden_size"], self.config["intermediate_size"]
        square, norm = (hidden, hidden), (hidden,)
        shapes: tuple[tuple[int, ...], ...] = (*[square] * 4, norm, (inner, hidden), (hidden, inner), norm)
        width = self.config.get("embedding_size", hidden)  # ELECTRA's
        modules: dict[str, tuple[int, ...]] = {f"{self._embeddings}.LayerNorm": (width,)}
        if width != hidden:
            modules[f"{self._embeddings}_project"] = (hidden, width)
        for names in self._layers():
            modules |= zip(names, shapes, strict=True)
        return modules | {self.kind.dense: square, self.kind.out: (self.labels, hidden)}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all tensors, in the order of the layers."""
        tables = [("word", "vocab_size"), ("position", "max_position_embeddings"), ("token_type", "type_vocab_size")]
        width = self._modules[f"{self._embeddings}.LayerNorm"]
        wanted: dict[str, tuple[int, ...]] = {
            f"{self._embeddings}.{name}_embeddings.weight": (self.config[key], *width)
            for name, key in tables[: 2 + self.kind.typed]
        }
        for name, shape in self._modules.items():
            wanted |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        return wanted

    def fits(self, file: Any) -> bool:
        """Whether a file, as `safe_open` gives it, has the tensors of this classifier in fp32, and no others."""
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        return {name: (tensor.get_dtype(), *tensor.get_shape()) for name, tensor in found.items()} == {
            name: ("F32", *shape) for name, shape in self.shapes.items()
        }

    def logits(self, file: Any, tokens: Tokens) -> np.ndarray:
        """What the classifier says of each row, (rows, labels) fp32.

        Raises:
            IndexError: there is no embedding for a token.
        """

        def module(name: str) -> Module:
            return file.get_tensor(f"{name}.weight"), file.get_tensor(f"{name}.bias")

        norm = module(f"{self._embeddings}.LayerNorm")
        hidden = _normed(self._embedded(file, tokens), norm, self.config["layer_norm_eps"])
        if (project := f"{self._embeddings}_project") in self._modules:
            hidden = _linear(hidden, module(project))
        bounds = tokens.offsets.tolist()
        for names in self._layers():
            hidden = self._through(hidden, bounds, [module(name) for name in names])
        first, activation = hidden[bounds[:-1]], ACTIVATIONS[self.kind.activation]
        return _linear(activation(_linear(first, module(self.kind.dense))), module(self.kind.out))

    def _embedded(self, file: Any, tokens: Tokens) -> np.ndarray:
        """(tokens, width); of the words those that occur are read."""

        def table(name: str) -> Any:
            return file.get_slice(f"{self._embeddings}.{name}_embeddings.weight")

        words = table("word")
        ids, places = np.unique(tokens.input_ids, return_inverse=True)
        embedded = np.concatenate([words[i : i + 1] for i in ids.tolist()])[places]
        if self.kind.typed:
            types = tokens.token_type_ids
            embedded += table("token_type")[:][np.zeros_like(places) if types is None else types]
        positions = [self._positions(tokens.input_ids[a:b]) for a, b in pairwise(tokens.offsets)]
        embedded += table("position")[:][np.concatenate(positions)]
        return embedded

    def _positions(self, ids: np.ndarray) -> np.ndarray:
        """Of the tokens of a row."""
        if not self.kind.counted:
            return np.arange(len(ids))
        padding = self.config["pad_token_id"]
        real = ids != padding
        return np.asarray(np.cumsum(real) * real + padding)

    def _through(self, hidden: np.ndarray, bounds: list[int], layer: list[Module]) -> np.ndarray:
        """A layer: (tokens, hidden) → the same."""
        query, key, value, out, attention_norm, up, down, norm = layer
        eps, heads = self.config["layer_norm_eps"], self.config["num_attention_heads"]
        q, k, v = (_linear(hidden, module) for module in (query, key, value))
        context = np.concatenate([_attended(q[a:b], k[a:b], v[a:b], heads) for a, b in pairwise(bounds)])
        hidden = _normed(_linear(context, out) + hidden, attention_norm, eps)
        inner = ACTIVATIONS[self.config["hidden_act"]](_linear(hidden, up))
        return _normed(_linear(inner, down) + hidden, norm, eps)


def _linear(x: np.ndarray, module: Module) -> np.ndarray:
    """(…, in) → (…, out)."""
    product: np.ndarray = x @ module[0].T
    return product + module[1]


def _normed(x: np.ndarray, module: Module, eps: float) -> np.ndarray:
    """LayerNorm over the last axis."""
    x = x - x.mean(-1, keepdims=True)
    scaled: np.ndarray = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return scaled * module[0] + module[1]


def _attended(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    """Attention of one row, (tokens, hidden) each → (tokens, hidden)."""
    q, k, v = (x.reshape(len(x), heads, -1).swapaxes(0, 1) for x in (q, k, v))  # (heads, tokens, head_dim)
    scores = q / math.sqrt(q.shape[-1]) @ k.swapaxes(1, 2)
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    context: np.ndarray = scores @ v / scores.sum(-1, keepdims=True)
    return context.swapaxes(0, 1).reshape(q.shape[1], -1)
