"""The report as one HTML file without scripts or external resources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape

from flowtape.model.prints import NEW_YORK
from flowtape.report.day import Day
from flowtape.report.picture import picture

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 0; background: #fff; } figure svg { width: 100%; height: auto; }
table { border-collapse: collapse; margin: 0 0 2rem; } caption { text-align: left; font-weight: 600; }
th, td { text-align: right; padding: .1rem .8rem .1rem 0; font-weight: 400; } thead th { border-bottom: 1px solid; }
th:first-child, td:first-child { text-align: left; }
"""


def page(day: Day) -> bytes:
    """Return the picture and the tables of a day, as UTF-8. The same day gives the same bytes."""
    svg = picture(day, "svg").decode()
    drawing = svg[svg.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    name = f"{day.symbol} {day.asset}s, {day.day}"
    body = [
        f"<h1>{escape(name)}</h1>",
        "<p><strong>The tape is simulated.</strong></p>" if day.simulated else "",
        f'<figure role="img" aria-label="{escape(f"Cumulative net volume of {name}", quote=True)}">{drawing}</figure>',
        _summary(day),
        _parts(day),
        _turns(day),
        _largest(day),
        "<p>The aggressor is inferred from the quote before each print; times are New York's.</p>",
    ]
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}</title><style>{_STYLE}</style>"
    )
    text = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(filter(None, body))
    return f"{text}\n</body></html>\n".encode()


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows]
    if not lines:
        return f"<p>{escape(caption)}: none.</p>"
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    rows_of = "\n".join(lines)
    return (
        f"<table><caption>{escape(caption)}</caption>\n"
        f"<thead><tr>{names}</tr></thead>\n<tbody>{rows_of}</tbody></table>"
    )


def _clock(text: str) -> str:
    return f"{datetime.fromisoformat(text).astimezone(NEW_YORK):%H:%M}"


def _summary(day: Day) -> str:
    one = day.summary
    rows = [
        ("Prints", f"{one.total_trades:,}"),
        ("Bought", f"{one.buy_volume:,}"),
        ("Sold", f"{one.sell_volume:,}"),
        ("Of unknown side", f"{one.mid_volume:,}"),
        ("Net volume", f"{one.net_volume:+,}"),
        ("Largest print", f"{one.biggest_single_trade:,}"),
    ]
    return _table("The day", ("", "contracts" if day.asset == "option" else "shares"), rows)


def _parts(day: Day) -> str:
    rows = [
        (
            part.part, f"{_clock(part.since)}–{_clock(part.until)}",
            f"{part.net_volume:+,}", f"{part.net_premium:+,.0f}",
            f"{part.mean_cumulative:+,.2f}" if isinstance(part.mean_cumulative, float) else "–",
            f"{part.absolute_share:.1%}",
        )
        for session in day.sessions.sessions
        for part in session.parts
    ]  # fmt: skip
    head = ("Part", "New York", "Net volume", "Net premium, USD", "Mean of the line", "Share of |net|")
    return _table("Parts of the day", head, rows)


def _turns(day: Day) -> str:
    rows = [
        (_clock(turn.ts), turn.kind, f"{turn.cumulative:+,}", f"{turn.prominence:,}")
        for turn in day.turns.points
    ]
    return _table("Turning points", ("New York", "Kind", "Cumulative", "Prominence"), rows)


def _largest(day: Day) -> str:
    rows = []
    for one in day.largest:
        contract = day.symbol if one.contract is None else "{} {:g} {}".format(*one.contract)
        when = f"{one.ts.astimezone(NEW_YORK):%H:%M:%S}"
        rows.append((when, contract, f"{one.price:,.2f}", f"{one.size:,}", one.side))
    return _table("Largest prints", ("New York", "Contract", "Price, USD", "Size", "Side"), rows)
