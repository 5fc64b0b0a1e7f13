"""Credentials of every vendor's live feed."""

import logging
import sys

import pytest

from feeding import Outlet
from feeds.lines import KEYS, NS, every, tape
from flowtape.errors import UsageError

pytestmark = pytest.mark.usefixtures("keys")


@every
@pytest.mark.parametrize("cursor", [None, str(NS)], ids=["anew", "from a cursor"])
def test_a_refused_key_is_an_error_without_the_key(line, run, monkeypatch, caplog, capfd, cursor):
    caplog.set_level(logging.DEBUG)
    for name in line.variables:
        monkeypatch.setenv(name, f"wrong-{name}-7")
    error = run(line.feed(), cursor).ended()
    assert type(error) is UsageError
    assert f"{', '.join(line.variables)}: refused by " in str(error)
    seen = repr(error) + repr(error.__cause__) + "".join(capfd.readouterr())
    # The stand-in runs in this process too, and may log what it received.
    ours = [record.getMessage() for record in caplog.records if record.name != "websockets.server"]
    assert "wrong-" not in seen + "".join(ours)


@every
def test_logs_contain_no_keys(line, run, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    # The program's own logging, if another test has set it up, reports only failures.
    caplog.set_level(logging.DEBUG, "urllib3.connectionpool")
    line.server.key_in_pages = True
    tape(line, 0, 150, live=False)
    one = run(line.feed(), str(NS))
    one.outlet.until_prints(150)
    one.stop()
    ours = "".join(record.getMessage() for record in caplog.records if record.name != "websockets.server")
    seen = ours + "".join(capfd.readouterr())
    assert not any(KEYS[name] in seen for name in line.variables)


@every
def test_a_key_may_come_from_a_file(line, run, monkeypatch, tmp_path):
    name = line.variables[-1]
    (tmp_path / "key").write_text(KEYS[name] + "\n")
    monkeypatch.setenv(name, "wrong")
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "key"))
    line.started(run(line.feed())).stop()
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "none"))
    assert f"{name}_FILE" in str(run(line.feed()).ended())


@every
def test_a_missing_key_is_named(line, monkeypatch):
    for name in line.variables:
        with monkeypatch.context() as without:
            without.delenv(name)
            with pytest.raises(UsageError, match=f"set {name} or"):
                line.feed().run(Outlet(), None)


@every
@pytest.mark.parametrize("key", ["k\u00e9y-secret", "two words-secret", "tab\x01-secret"])
def test_the_error_for_a_malformed_key_hides_it(line, monkeypatch, tmp_path, key):
    name = line.variables[-1]
    monkeypatch.setenv(name, key)
    with pytest.raises(UsageError, match=f"{name}: a key has no blanks") as told:
        line.feed().run(Outlet(), None)
    assert "secret" not in repr(told.value)
    (tmp_path / "key").write_bytes(b"\xffsecret")
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "key"))
    with pytest.raises(UsageError, match="not a text") as told:
        line.feed().run(Outlet(), None)
    assert told.value.__context__ is None or "secret" not in repr(told.value)


@every
def test_a_missing_client_is_named(line, monkeypatch):
    monkeypatch.setitem(sys.modules, line.module, None)
    with pytest.raises(UsageError, match=rf"pip install 'flowtape\[{line.extra}\]'"):
        line.feed().run(Outlet(), None)
