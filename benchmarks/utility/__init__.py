"""Sentiment accuracy of sanitized text against what an attacker recovers: `python -m benchmarks.utility`."""
