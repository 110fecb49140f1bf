"""The `veil` command: names the missing extra in one line, or hands over to the commands."""

import os
import sys


def main() -> int:
    """Return the exit status: 0, or 2 after one line that says what is wrong and what to do."""
    # Enclave and worker take turns on the same cores: a thread that waits must sleep. Read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from veil.commands import run
    except ModuleNotFoundError as error:
        print(f"veil: {error.name} is not installed: pip install 'veil[audit]'", file=sys.stderr)
        return 2
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
