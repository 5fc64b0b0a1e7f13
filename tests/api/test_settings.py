from datetime import timedelta
from pathlib import Path

import pytest

from flowtape.errors import UsageError
from flowtape.settings import Settings, load, markdown, table

ROOT = Path(__file__).resolve().parents[2]


def test_the_settings_page_equals_the_table() -> None:
    assert (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8") == markdown()


def test_every_setting_has_a_help_and_a_variable() -> None:
    assert {row.name for row in table()} == set(Settings.__struct_fields__)
    assert all(row.help.endswith(".") and row.variable == "FLOWTAPE_" + row.name.upper() for row in table())


def test_the_first_source_wins(tmp_path: Path) -> None:
    file = tmp_path / "flowtape.toml"
    file.write_text('port = 1\nhost = "file"\nstore = "file"\nlimit_free = 9\nlimit_basic = "unlimited"')
    environ = {"FLOWTAPE_PORT": "2", "FLOWTAPE_HOST": "environ", "FLOWTAPE_OTHER": "x"}
    found = load(file, environ, {"port": 3, "host": None})
    assert (found.port, found.host, found.store) == (3, "environ", "file")
    assert (found.limit_free, found.limit_basic, found.limit_growth) == (9, None, 2500)


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = load(environ={})
    assert found == Settings()
    assert [found.limit(plan) for plan in ("Free", "Basic", "Growth", "Alpha", "Enterprise")] == [
        5, 250, 2500, None, None,
    ]  # fmt: skip
    assert found.keys_path == Path("var/flow.duckdb.keys")
    assert Settings(keys="k").keys_path == Settings(keys="k").counts_path == Path("k")
    shared = Settings(store="clickhouse://h/flow")
    assert shared.keys_path == shared.counts_path == Path("flowtape.keys")
    in_store = Settings(store="clickhouse://h/flow", keys="store:")
    assert (in_store.keys_path, in_store.counts_path) == (None, Path("flowtape.counts"))
    (tmp_path / "flowtape.toml").write_text("port = 5")
    assert load(environ={}).port == 5
    (tmp_path / "other.toml").write_text("port = 6")
    assert load(environ={"FLOWTAPE_CONFIG": "other.toml"}).port == 6


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("flow_plan", "growth", "Growth"),
        ("log_format", "JSON", "json"),
        ("access_log", "true", True),
        ("limit_alpha", "100", 100),
        ("limit_free", "Unlimited", None),
        ("max_quote_age", "1.5", 1.5),
        ("max_quote_age", "none", None),
        ("silence_limit", "5", 5.0),
    ],
)
def test_words_of_the_environment(name: str, text: str, value: object) -> None:
    assert getattr(load(environ={f"FLOWTAPE_{name.upper()}": text}), name) == value


def test_a_quote_age_is_a_duration() -> None:
    assert load(environ={"FLOWTAPE_MAX_QUOTE_AGE": "1.5"}).quote_age == timedelta(seconds=1.5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "http"), ("port", "65536"), ("port", "-1"), ("port", "80.5"), ("port", ""),
        ("limit_free", "0"), ("limit_free", "-3"), ("limit_free", "many"), ("flow_plan", "gold"),
        ("log_format", "xml"), ("silence_limit", "nan"), ("silence_limit", "inf"), ("silence_limit", "0"),
        ("silence_limit", "none"), ("access_log", "perhaps"), ("host", " "),
    ],
)  # fmt: skip
def test_an_error_names_the_setting_and_the_value(name: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(environ={f"FLOWTAPE_{name.upper()}": text})
    assert f"setting {name} (FLOWTAPE_{name.upper()}) cannot be '{text.strip()}'" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"prot = 5", "no setting 'prot'"), (b"port = ", "cannot be read"), (b"\xff", "cannot be read")],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        load(file, {})
    assert "a.toml" in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path / "missing.toml", {})
    with pytest.raises(UsageError, match="no setting 'nothing'"):
        load(environ={}, overrides={"nothing": 1})
