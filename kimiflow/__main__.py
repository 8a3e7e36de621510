"""Where the ``kimiflow`` command and ``python -m kimiflow`` begin."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs what the command line says, and exits."""
    words = sys.argv[1:]
    if len(words) == 2 and words[0] == "token" and not words[1].startswith("-"):
        from kimiflow.quick import fresh_token

        found = fresh_token(words[1])
        if found is not None and _written(found):
            sys.exit(0)
    # Imported here, so that a failing import is reported like everything else that fails.
    from kimiflow.cli import main as run

    sys.exit(run(words))


def _written(token: str) -> bool:
    """Whether it could be printed; a broken pipe is the long way's to explain."""
    try:
        sys.stdout.write(token + "\n")
        sys.stdout.flush()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
