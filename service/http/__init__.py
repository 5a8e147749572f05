"""The HTTP face: one file a protocol."""
