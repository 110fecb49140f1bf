"""The C that is worth compiling, and what compiles it; it imports nothing else of the package."""
