"""The layout, the names, the tests and the documentation of the project: one module per line."""
