"""Fuzzing of everything that reads what a peer sent: both decoders, the worker and the enclave."""
