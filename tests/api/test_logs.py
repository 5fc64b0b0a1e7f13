import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest

from flowtape.server.logs import configure, event, redact
from flowtape.settings import Settings

from .conftest import PATH, World

KEY = "ft_" + "aB3-_xyz" * 4


@pytest.fixture
def logged() -> Iterator[Callable[..., io.StringIO]]:
    """Return a function that configures the log into a buffer; the previous configuration is restored."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []

    def make(**settings: object) -> io.StringIO:
        stream = io.StringIO()
        configure(Settings(**settings), stream)  # type: ignore[arg-type]
        return stream

    yield make
    root.handlers, root.level = handlers, level


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("GET /x?apiKey=abc&minutes=5", "GET /x?apiKey=(redacted)&minutes=5"),
        ("/x?a=1&APIKEY=abc", "/x?a=1&APIKEY=(redacted)"),
        ("{'X-Api-Key': 'abc'}", "{'X-Api-Key': '(redacted)'}"),
        (f"bad value {KEY}.", "bad value (redacted)."),
        ("minutes=5", "minutes=5"),
    ],
)
def test_redact(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_an_event_is_one_line_of_text(logged: Callable[..., io.StringIO]) -> None:
    stream = logged()
    event(logging.getLogger("flowtape.x"), logging.INFO, "keys reloaded", count=3, name="a b\nc", key=KEY)
    event(logging.getLogger("flowtape.x"), logging.DEBUG, "not logged")
    (line,) = stream.getvalue().splitlines()
    assert line.split(" ", 1)[1] == r'INFO keys reloaded count=3 name="a b\nc" key=(redacted)'
    assert line.split(" ", 1)[0].endswith("Z")


def test_an_event_is_one_line_of_json_and_its_trace_holds_no_key(logged: Callable[..., io.StringIO]) -> None:
    stream = logged(log_format="json", log_level="debug")
    try:
        raise ValueError(f"apiKey={KEY}&x")
    except ValueError:
        event(logging.getLogger("flowtape.x"), logging.ERROR, "failed", path="/x")
    logging.getLogger("other").warning("x?apiKey=%s", "abc")
    failed, other = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (failed["level"], failed["event"], failed["path"]) == ("error", "failed", "/x")
    assert failed["trace"].startswith("Traceback")
    assert "ValueError: apiKey=(redacted)&x" in failed["trace"]
    assert other["event"] == "x?apiKey=(redacted)"


def test_the_access_log_tells_no_key(
    worlds: Callable[[Settings], World], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="flowtape")
    world = worlds(Settings(access_log=True))
    key = world.raw["alpha"]
    for name in ("apiKey", "api%4Bey", "APIKEY"):
        world.http.get(f"{PATH}?minutes=2&{name}={key}%20x")
    world.get()
    world.close()
    lines = [record.fields for record in caplog.records if record.getMessage() == "request"]  # type: ignore[attr-defined]
    assert [line["status"] for line in lines] == [200] * 4
    assert {line["target"].partition("?")[2] for line in lines[:3]} == {
        "minutes=2&apiKey=(redacted)",
        "minutes=2&APIKEY=(redacted)",
    }
    assert lines[3]["target"] == PATH
    assert key not in caplog.text
    assert all(
        key not in repr(record.__dict__) for record in caplog.records if record.name.startswith("flowtape")
    )
