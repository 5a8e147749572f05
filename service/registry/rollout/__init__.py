"""Versions of a model share its requests: policies, shadows, and rules that change the policies."""
