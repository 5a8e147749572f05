"""Model formats, one module per format."""
