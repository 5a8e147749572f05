"""The Open Inference Protocol without a transport: what `http.v2` and `grpc` translate to and from."""
