"""Attacks on recorded transcripts: what a worker can find out, tried."""
