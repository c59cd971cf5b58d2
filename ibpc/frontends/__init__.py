"""Ways in: JSON specs, ONNX files and PyTorch modules become graphs of the IR."""
