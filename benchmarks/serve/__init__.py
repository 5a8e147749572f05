"""`python -m benchmarks serve`: the service under load, and in the same run the limits of its engine and its decoder.

`payloads` and `loads` define the requests, `client` sends them, `server` runs the service, `ceiling` measures
the limits and `queueing` simulates the shortest possible waiting times; `rounds` measures, `report` summarises.
"""
