"""The auditor of token sanitizers: exact where a law is exposed, by counting where it is not."""
