"""One connection of a client: framing of requests, order, limits, TLS."""
