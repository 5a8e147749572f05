"""`--grpc-port`: the Open Inference Protocol over gRPC. The library is imported only if the port is set."""
