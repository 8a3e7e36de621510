"""Commands as processes, with pipes or with a terminal, none of which outlives its test."""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from typing import Any, Self

KIMIFLOW = [sys.executable, "-m", "kimiflow"]

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Process:
    """One that is under way; what it prints is collected as it comes, stderr and stdout apart."""

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [*KIMIFLOW, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stdout = self.stderr = ""
        self._readers = [threading.Thread(target=self._read, args=(name,)) for name in ("stdout", "stderr")]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        with getattr(self.process, name) as stream:
            for line in stream:
                setattr(self, name, getattr(self, name) + line)

    def wait_for(self, text: str, where: str = "stderr", timeout: float = 20.0) -> None:
        until(lambda: text in getattr(self, where) or self.process.poll() is not None, timeout)
        assert text in getattr(self, where), (self.stdout, self.stderr)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, timeout: float = 30.0) -> int:
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()


class Terminal:
    """A process that has a terminal for its three streams."""

    def __init__(
        self, arguments: tuple[str, ...], environment: dict[str, str], columns: int = 80, rows: int = 40
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [*KIMIFLOW, *arguments],
            env=environment | {"TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.raw = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            try:
                piece = os.read(self._master, 65536)
            except OSError:  # the last holder of the other end has closed it
                return
            if not piece:
                return
            self.raw += decoder.decode(piece)

    @property
    def text(self) -> str:
        """Everything that was written, without the control sequences."""
        return ANSI.sub("", self.raw)

    def wait_for(self, text: str, timeout: float = 20.0) -> None:
        until(lambda: text in self.text or self.process.poll() is not None, timeout, lambda: self.text)
        assert text in self.text, self.text

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, timeout: float = 30.0) -> int:
        code = self.process.wait(timeout)
        self._reader.join()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        os.close(self._master)


class Cli:
    """Runs ``kimiflow``; whatever is still running at the end is killed."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self._started: list[Process | Terminal] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.close()

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*KIMIFLOW, *arguments],
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def good(self, *arguments: str, **environment: str) -> str:
        """What a command that succeeds prints on stdout."""
        done = self(*arguments, **environment)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.good(*arguments, "--json"))

    def status(self) -> dict[str, dict[str, Any]]:
        return {each["account"]: each for each in self.json("status")}

    def start(self, *arguments: str, **environment: str) -> Process:
        process = Process(arguments, self.environment | environment)
        self._started.append(process)
        return process

    def terminal(self, *arguments: str, columns: int = 80, rows: int = 40, **environment: str) -> Terminal:
        process = Terminal(arguments, self.environment | environment, columns, rows)
        self._started.append(process)
        return process


def until(happened: Callable[[], Any], timeout: float = 20.0, told: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < deadline, f"this did not happen in time {told()}"
        time.sleep(0.02)


CTRL_C = signal.SIGINT
