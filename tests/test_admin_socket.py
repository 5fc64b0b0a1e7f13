"""The admin socket beside a store: commands when another process listens, nobody listens, or the listener is no
server."""

import contextlib
import os
import shutil
import socket
import stat
import tempfile
import threading
import time
from datetime import date
from pathlib import Path

import pytest

from flowtape.errors import StoreError
from flowtape.server import admin
from processes import Served, command

REBUILD = admin.Rebuild(date(2026, 5, 12))


@pytest.fixture
def store(tmp_path):
    return tmp_path / "x.duckdb"


@pytest.fixture
def far():
    """A store whose path is too long for a socket, and a temporary directory of its own."""
    folder = Path(tempfile.mkdtemp())
    store = folder / ("deep" * 40) / "x.duckdb"
    store.parent.mkdir()
    yield store
    shutil.rmtree(folder)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"flowtape-{os.getuid()}"


class Listener:
    """Listens beside a store, and sends a text to each client."""

    def __init__(self, store, said):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(os.fspath(admin.address(store)))
        self._socket.listen()
        self._lines = []
        self._said = said
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                line, _ = self._socket.accept()
            except OSError:
                return
            self._lines.append(line)
            with contextlib.suppress(OSError):
                line.sendall(self._said)

    def close(self):
        # Closing alone does not wake the thread.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        for line in self._lines:
            line.close()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "has not answered for 0 s"),
        (b"HTTP/1.1 400 Bad Request\r\n", "is no flowtape server"),
        (b"x" * 1000, "has not answered for 0 s"),
    ],
)
def test_a_socket_that_does_not_answer_ends_the_command(store, monkeypatch, said, reason):
    monkeypatch.setattr(admin, "PATIENCE", 0.3)
    listener = Listener(store, said)
    began = time.monotonic()
    with pytest.raises(StoreError, match=reason):
        admin.ask(str(store), REBUILD)
    assert time.monotonic() - began < 5
    listener.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user for a while")
def test_another_user_does_not_answer_for_a_store(far):
    store = far.parents[1] / "x.duckdb"
    store.touch()
    store.parent.chmod(0o777)
    os.seteuid(65_534)
    try:
        listener = Listener(store, b'{"type":"done","bars":7}\n')
    finally:
        os.seteuid(0)
    with pytest.raises(StoreError, match=r"another user's \(id 65534\)"):
        admin.ask(str(store), REBUILD)
    listener.close()


def test_a_long_path_has_its_socket_in_a_private_folder(far, temporary):
    path = admin.address(far)
    assert path.parent == temporary
    assert stat.S_IMODE(temporary.stat().st_mode) == 0o700
    assert admin.address(far) == path


@pytest.mark.parametrize("made", ["wide", "link", "file", "other"])
def test_a_folder_that_others_could_write_is_refused(far, temporary, tmp_path, made):
    if made == "link":
        (tmp_path / "mine").mkdir(mode=0o700)
        temporary.symlink_to(tmp_path / "mine")
    elif made == "file":
        temporary.touch(0o600)
    else:
        temporary.mkdir(mode=0o700)
        temporary.chmod(0o750 if made == "wide" else 0o700)
    if made == "other":
        if os.getuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(temporary, 65_534, 65_534)
    with pytest.raises(StoreError, match="must be a folder of your own with mode 0700, and no link"):
        admin.address(far)


def test_a_long_command_is_kept_alive_by_the_server(store, monkeypatch, tmp_path):
    # The server sends a message every two seconds, so that a command may take longer than the patience.
    tape = tmp_path / "day.parquet"
    command("simulate", tape, "--day", "2026-05-12", "--prints", "20000")
    with Served("--store", store) as served:
        monkeypatch.setattr(admin, "PATIENCE", 2.5)
        done = admin.ask(str(store), admin.Ingest(admin.Request(files=[str(tape)])))
        assert done.outcomes[0].added == 20_000
        assert served.end() == 0


def test_a_silent_client_does_not_delay_stopping(store):
    with Served("--store", store) as served, socket.socket(socket.AF_UNIX) as line:
        line.connect(os.fspath(admin.address(store)))
        began = time.monotonic()
        assert served.end() == 0
        assert time.monotonic() - began < 15
