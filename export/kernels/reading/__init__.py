"""Reads the ONNX files that `export` writes into the layers of `network`.

graph.py    the graph, its constants and attributes
values.py   tensors as values of a layer with element-wise steps behind them, and the forms that a layer stores
pixels.py   the arithmetic between bytes and the first convolution
reader.py   the nodes in their order
"""
