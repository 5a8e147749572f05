"""Reads the content of request bodies: images, forms, JSON and base64."""
