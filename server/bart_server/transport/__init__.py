"""Receives calls over gRPC and passes them to the runtime."""
