"""The formats of an answer: which one a request asks for, and a body's bytes in each."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import msgspec
import polars as pl

from flowtape.queries import JSON, table

Format = Literal["json", "csv", "arrow", "parquet", "envelope"]
"""The format of an answer; `envelope` is JSON with the setting of that name."""
FORMATS: tuple[Format, ...] = ("json", "csv", "arrow", "parquet")
"""The formats that a client may ask for; of equally preferred ones, the first is sent."""
MEDIA: dict[Format, str] = {
    "json": JSON,
    "envelope": JSON,
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}
_LONGEST_ACCEPT = 1024
"""Bytes of the longest Accept header that is parsed."""
_RANGE = re.compile(r"\s*([\w.+*-]+)/([\w.+*-]+)\s*((?:;[^,]*)?)")
_QUALITY = re.compile(r";\s*q\s*=\s*([^;\s]*)")


def accepted(accept: bytes) -> Format:
    """Return the format that an Accept header prefers (RFC 9110 12.5.1).

    JSON if it accepts none of `FORMATS`, or if it is longer than `_LONGEST_ACCEPT`.
    """
    return _accepted(accept) if len(accept) <= _LONGEST_ACCEPT else FORMATS[0]


@lru_cache(maxsize=256)
def _accepted(accept: bytes) -> Format:
    ranges: dict[str, float] = {}
    for part in accept.decode("latin-1").lower().split(","):
        found = _RANGE.fullmatch(part)
        if found:
            ranges[f"{found[1]}/{found[2]}"] = _quality(found[3])
    best, most = FORMATS[0], 0.0
    for name in FORMATS:
        kind = MEDIA[name]
        # The most specific media range decides.
        quality = ranges.get(kind, ranges.get(kind.split("/")[0] + "/*", ranges.get("*/*", 0.0)))
        if quality > most:
            best, most = name, quality
    return best


def _quality(parameters: str) -> float:
    found = _QUALITY.search(parameters)
    if found is None:
        return 1.0
    try:
        return min(float(found[1]), 1.0)
    except ValueError:
        return 0.0


def writer(format: Format) -> Callable[[msgspec.Struct], bytes]:
    """Return a function that encodes a body's table as CSV (times as in JSON), an Arrow stream or a Parquet file."""
    return {"csv": _csv, "arrow": _arrow, "parquet": _parquet}[format]


def _csv(body: msgspec.Struct) -> bytes:
    frame = table(body)
    sample = _sample(body)
    texts = [
        pl.col(name).dt.strftime(_time_format(sample.get(name)))
        for name, dtype in frame.schema.items()
        if isinstance(dtype, pl.Datetime)
    ]
    return frame.with_columns(texts).with_columns(_guarded(pl.col(pl.String))).write_csv().encode()


def _guarded(texts: pl.Expr) -> pl.Expr:
    """Return texts with an apostrophe before those that a spreadsheet would run as formulas (OWASP, "CSV
    Injection")."""
    return texts.str.replace(r"^([=+\-@\t\r])", "'$1")


def _sample(body: msgspec.Struct) -> dict[str, Any]:
    """Return the first row of a body as in JSON; of a body without rows, the body itself."""
    found = [value for value in msgspec.structs.astuple(body) if isinstance(value, list)]
    rows = [value[0] for value in found if value]
    sample: dict[str, Any] = msgspec.to_builtins(rows[0] if rows else body)
    return sample


def _time_format(text: str | None) -> str:
    """Return the format of times like `text`: whole seconds, or 3, 6 or 9 decimals."""
    decimals = len((text or "").partition(".")[2].removesuffix("Z"))
    return f"%Y-%m-%dT%H:%M:%S{f'%.{decimals}f' if decimals else ''}Z"


def _arrow(body: msgspec.Struct) -> bytes:
    out = io.BytesIO()
    # Older readers do not support the newest string layout.
    table(body).write_ipc_stream(out, compat_level=pl.CompatLevel.oldest())
    return out.getvalue()


def _parquet(body: msgspec.Struct) -> bytes:
    out = io.BytesIO()
    table(body).write_parquet(out)
    return out.getvalue()
