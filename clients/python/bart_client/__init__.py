"""Client of the BART gRPC server."""
