"""The `veil` command: names the missing extra in one line, or hands over to the commands."""

import os
import sys
from importlib.util import find_spec

RUN = (
    "typer",
    "rich",
    "torch",
    "grpc",
    "numpy",
    "safetensors",
    "cryptography",
    "jinja2",
    "transformers",
    "tokenizers",
)
"""Modules of the extra that every command needs."""


def main() -> int:
    """Return the exit status: 0, or 2 after one line that says what is wrong and what to do."""
    # Enclave and worker take turns on the same cores: a thread that waits must sleep. Read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from veil.commands import run

        return run(sys.argv[1:])
    except ImportError as error:
        missing = error.name or str(error).strip().partition("\n")[0]
        print(f"veil: {missing} is not installed: pip install 'veil[{_extra(missing)}]'", file=sys.stderr)
        return 2


def check_installed() -> None:
    """Let a missing module of the extra be named here, before processes that need it are started."""
    for name in RUN:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"{name} is missing", name=name)


def _extra(missing: str) -> str:
    package = missing.partition(".")[0]
    if package in ("matplotlib", "scipy", "pytest", "hypothesis", "jsonschema"):
        return "audit"
    return "run" if package in RUN else "run,import"


if __name__ == "__main__":
    sys.exit(main())
