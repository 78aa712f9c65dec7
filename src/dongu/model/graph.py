"""A classifier that was written as an ONNX graph, at work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from dongu.errors import ModelError
from dongu.text import reason_of

LOGITS = "logits"
HINT = "nothing was written; this kind of model cannot be exported"


class OnnxModel(nn.Module):
    """An ONNX file at work on the CPU, called as the model that it was made of, which had this config.

    Raises:
        ModelError: the runtime does not know what is in the file, or fails on it later.
    """

    def __init__(self, path: Path, config: Any) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with graph_errors("the graph cannot be read"):
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.config = config
        self.columns = tuple(each.name for each in self.session.get_inputs())

    def forward(self, **inputs: Tensor) -> SequenceClassifierOutput:
        """Logits, (batch, labels), for inputs of (batch, tokens) each."""
        with graph_errors("the graph cannot be computed"):
            [logits] = self.session.run([LOGITS], {name: inputs[name].numpy() for name in self.columns})
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))


@contextmanager
def graph_errors(what: str) -> Iterator[None]:
    """One kind of error for the many of exporter, quantizer and runtime; the disk's stay what they are."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise ModelError(f"{what} ({reason_of(error)})", hint=HINT) from error
