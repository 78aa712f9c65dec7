"""A classifier as an ONNX graph: traced, made smaller, and called as the model is."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from dongu.errors import ModelError
from dongu.model.graph import LOGITS, graph_errors

OPSET = 17  # of ONNX 1.12, which every runtime since 2022 reads
LIMIT_BYTES = 2**31 - 2**20  # of a graph in one file, with room for all that is not a weight
FREE = {0: "batch", 1: "tokens"}  # the axes of the inputs whose sizes are the caller's


def write_onnx(model: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    """Write the model's own forward, as it answers in eval mode, in which it is left.

    It is traced, the older of PyTorch's two ways: a tenth of the seconds of the newer one, no package more, and right
    for encoders and decoders alike. A trace holds what the example made it do, so its answers are to be checked.

    The model is on the CPU, in fp32; `inputs` are an example of all that it takes, (batch, tokens) each, of several
    rows and with padding.

    Raises:
        ModelError: the weights are too many for one file, or the forward cannot be traced.
        OSError: the file could not be written.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > LIMIT_BYTES:
        what = f"has {size / 1e9:.1f} GB of weights, and an ONNX file holds 2"
        raise ModelError(what, where=type(model).__name__)
    axes = {**dict.fromkeys(inputs, FREE), LOGITS: {0: FREE[0]}}
    with graph_errors("the model cannot be written as ONNX"), _quiet(), torch.no_grad():
        torch.onnx.export(
            _Answer(model, tuple(inputs)).eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=[LOGITS],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def write_int8(graph: Path, path: Path) -> None:
    """The same graph with weights of eight bits, each column by its own scale; activations are scaled as they come.

    Weights use half of their range: a processor without VNNI adds two products in sixteen bits, which overflow
    otherwise, and the graph would answer otherwise there.

    Raises:
        ModelError: the graph cannot be made smaller.
        OSError: the file could not be written.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with graph_errors("the graph cannot be quantized to eight bits"), _quiet():
        quantize_dynamic(graph, path, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)


class _Answer(nn.Module):
    """The model with inputs by their places, as a trace wants them, and nothing but logits for an answer."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, tensors, strict=True))).logits
        return logits


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice of exporter and quantizer: what they warn of is measured afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
