"""Acceptance: one script a subject, which measures each line of what must be true and prints PASS or FAIL with it."""
