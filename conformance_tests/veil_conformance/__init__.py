"""The conformance suite of Veil, for anyone's implementation: `python -m veil_conformance --impl module`."""
