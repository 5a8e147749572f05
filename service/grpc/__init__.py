"""`--grpc-port`: the Open Inference Protocol over gRPC."""
