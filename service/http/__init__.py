"""HTTP: connections, middlewares, and the routes of each protocol."""
