"""A classifier of BERT's kind as modules of PyTorch alone, for eval mode: to import transformers takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POSITIONS = "position_embeddings"
TORCH_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "tanh": torch.tanh}


class BareConfig(SimpleNamespace):
    """What the engine and an evaluation read of a model's config.json."""

    def get_text_config(self) -> BareConfig:
        """Itself, as of every model of texts alone."""
        return self


class Part(nn.Module):
    """A module that has others; it computes what transformers' of that name do with `dense`, and maybe `out_proj`."""

    dropout = nn.Identity()  # of eval mode
    dense: Any
    out_proj: Any

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.activation = TORCH_ACTIVATIONS[activation]

    def __iter__(self) -> Iterator[nn.Module]:
        return self.children()

    def forward(self, hidden: Tensor) -> Tensor:
        """(tokens, hidden) → (tokens, out), or the first token of (batch, tokens, hidden) → (batch, out)."""
        hidden = self.activation(self.dense(hidden if hidden.dim() == 2 else hidden[:, 0]))
        return self.out_proj(hidden) if hasattr(self, "out_proj") else hidden


class BareClassifier(Part):
    """The modules that tensors belong to by their names, called as transformers calls them.

    Args:
        config: a `BareConfig` in BERT's words, with `num_labels`.
        tensors: all of them, in the order of the layers; they are kept, and not copied.
        base: the name of the part below the head.
        activations: of the parts, by their names, where it is not `config.hidden_act`.
        padding_idx: of the positions that are counted from it on, or None.
    """

    def __init__(
        self, config: Any, tensors: Mapping[str, Tensor], base: str, activations: Mapping[str, str], padding_idx: Any
    ) -> None:
        super().__init__(config.hidden_act)
        self.config, self.base = config, base
        for name, tensor in tensors.items():
            path, _, kind = name.rpartition(".")
            if kind == "weight":
                above, _, last = path.rpartition(".")
                layer = self._layer(last, tensor, tensors.get(f"{path}.bias"), padding_idx)
                self._part(above, activations).add_module(last, layer)
        self.base_model.config = config

    def _part(self, path: str, activations: Mapping[str, str]) -> Any:
        if not path:
            return self
        above, _, last = path.rpartition(".")
        parent = self._part(above, activations)
        if not hasattr(parent, last):
            parent.add_module(last, Part(activations.get(path, self.config.hidden_act)))
        return getattr(parent, last)

    def _layer(self, name: str, weight: Tensor, bias: Tensor | None, padding_idx: Any) -> Any:
        if bias is None:
            rows, width = weight.shape
            return nn.Embedding(rows, width, padding_idx if name == POSITIONS else None, _weight=weight)
        layer: Any = nn.Linear(1, 1)  # to draw weights takes longer than to read them, and on `meta` it imports SymPy
        if weight.dim() == 1:
            layer = nn.LayerNorm(len(weight), eps=self.config.layer_norm_eps)
        else:
            layer.out_features, layer.in_features = weight.shape
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        return layer

    @property
    def base_model(self) -> Any:
        """The part below the head."""
        return getattr(self, self.base)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device
