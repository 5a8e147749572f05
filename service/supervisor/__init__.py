"""The parent of several processes: it listens, starts them, watches them, replaces them and ends them."""
