"""An interpreter of exported ONNX graphs in PyTorch: `network` runs the nodes, `operators` computes them."""
