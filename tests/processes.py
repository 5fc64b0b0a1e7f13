"""The program as processes of its own: `flowtape serve` and other commands."""

import ctypes
import signal
import subprocess
import sys
import threading
from pathlib import Path

FLOWTAPE = Path(sys.executable).with_name("flowtape")
LIMIT = 30
"""Seconds that anything may take."""


def held_to_permissions():
    """Let the mode bits of files hold for this process even where it is root's."""
    drop_from_bounding_set, dac_override = 24, 1
    ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0)


class Served:
    """`flowtape serve` as a process of its own, or another program that serves as it does."""

    def __init__(self, *arguments, program=(FLOWTAPE, "serve", "--port", "0", "--log-format", "json")):
        self.process = subprocess.Popen(
            [*program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        first = self.process.stdout.readline()
        self.url = first.split(" at ")[1].split()[0]
        self.log, self._heard = [], threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            with self._heard:
                self.log.append(line)
                self._heard.notify_all()

    def await_log(self, text):
        with self._heard:
            assert self._heard.wait_for(lambda: any(text in line for line in self.log), LIMIT)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.returncode is None:
            self.end(signal.SIGKILL)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        code = self.process.wait(LIMIT)
        self._reader.join(LIMIT)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()
        return code


def command(*words, code=0, **more):
    """What a command says on standard output, and on standard error, once it ended with `code`."""
    done = subprocess.run([FLOWTAPE, *map(str, words)], check=False, capture_output=True, text=True,
                          timeout=LIMIT, **more)  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr
