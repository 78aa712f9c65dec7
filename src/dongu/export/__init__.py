"""A model for others: ONNX, its card, the Hub."""
