"""The values that the two sides of the service exchange: dataclasses, arrays, numbers and strings.

The answering side (`http`, `inference`, `decoding`) speaks HTTP, decodes images and writes answers. The computing side
(`registry`, `engine`, `executors`) loads models and runs batches. Neither imports the other, so that each can run in a
process of its own.
"""
