"""Acceptance of the protection against hostile input, broken surroundings and unusual files."""
