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
    try:
        # Imported here, so that a failing import is reported like everything else that fails.
        from kimiflow.cli import main as run

        code = run(words)
    except KeyboardInterrupt:  # before there was anybody to report it
        code = 130
    _end_quietly()
    sys.exit(code)


def _end_quietly() -> None:
    """From here on Ctrl-C ends the process, and prints no traceback: all is done."""
    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


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
