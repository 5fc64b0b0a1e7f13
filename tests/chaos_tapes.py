"""Random tapes of trades and quotes in plain rows, and the prints they come to, worked out row by row."""

from dataclasses import dataclass, replace

MS, SECOND = 10**6, 10**9


@dataclass(frozen=True)
class Instrument:
    """`name` is the vendor's; `contract` has the columns of prints that tell what it is."""

    name: str
    contract: dict


@dataclass(frozen=True)
class Row:
    """A trade (`size` is set) or a quote. `ts` is when it happened, `due` when it is published (ns UTC); prices are in
    1/10,000 USD, `seq` is the source's number, `code` the vendor's sale condition."""

    instrument: Instrument
    ts: int
    due: int
    seq: int = 0
    price: int = 0
    size: int = 0
    code: int = 0
    bid: int = 0
    ask: int = 0


@dataclass(frozen=True)
class Shape:
    """What a vendor's wire can have. `tick` is the unit of time (ns) in which a quote is before a trade or is not.
    Trades and quotes come up to `late_trades` and `late_quotes` ns late; `codes` are sale conditions with `cancels`
    among them; `numbered`: rows of one time and kind are told apart by a number of their own."""

    tick: int = 1
    late_trades: int = 0
    late_quotes: int = 0
    codes: tuple[int, ...] = (0,)
    cancels: tuple[int, ...] = ()
    numbered: bool = False


def tape_of(chance, shape, instruments, end):
    """Rows in the order in which they are published; the last, of the time `end`, is the newest of all."""
    span = chance.uniform(20, 300)
    count = chance.randint(200, 500)
    at = end - int((span + 50) * SECOND)
    rows, last = [], {}
    for _ in range(count):
        at += int(chance.expovariate(count / span) * SECOND) + 1
        if at > end - 50 * SECOND:
            break
        of = chance.choice(instruments)
        if chance.random() < 0.45 or of.name not in last:
            bid = chance.randrange(100, 140) * 100
            last[of.name] = Row(of, at, at, bid=bid, ask=bid + chance.randrange(0, 8) * 100)
            made = [last[of.name]]
            if shape.numbered and chance.random() < 0.15:
                made.append(replace(made[0], bid=bid - 100))
        else:
            made = _trades(chance, shape, last[of.name], at, rows)
        late = shape.late_trades if made[0].size else shape.late_quotes
        if late and len(made) == 1 and made[0].ts == at and chance.random() < 0.12:
            made[0] = replace(made[0], due=at + chance.randrange(late))
        rows += made
    rows = [replace(row, seq=number) for number, row in enumerate(rows, 1)]
    rows.sort(key=lambda row: (row.due, row.seq))
    first = instruments[0]
    final = Row(first, end - SECOND, end - SECOND, len(rows) + 1, bid=12_000, ask=12_400)
    return [*rows, final, Row(first, end, end, len(rows) + 2, 12_400, 1, shape.codes[0])]


def _trades(chance, shape, quote, at, before):
    """A trade, or some alike, or the cancel of an earlier one; now and then of the very time of the last quote."""
    if chance.random() < 0.15:
        at = quote.ts
    told = [row for row in before if row.size and row.code not in shape.cancels and row.ts < at - SECOND]
    if told and shape.cancels and chance.random() < 0.08:
        return [replace(chance.choice(told), ts=at, due=at, code=chance.choice(shape.cancels))]
    price = quote.bid + 100 * chance.randrange(-1, 9)
    one = Row(
        quote.instrument, at, at, price=price, size=chance.randint(1, 20), code=chance.choice(shape.codes)
    )
    return [one] * chance.choice([1, 1, 1, 1, 1, 2, 3])


def prints_of(rows, shape, names, base):
    """The prints of a tape, as the plain oracle has them: each trade with the last quote strictly before it. `names`
    are conditions by code, `base` the columns that are the same in all."""
    made = []
    for trade in (row for row in rows if row.size):
        before = [
            row
            for row in rows
            if not row.size
            and row.instrument is trade.instrument
            and row.ts // shape.tick < trade.ts // shape.tick
        ]
        quote = max(before, key=lambda row: (row.ts // shape.tick, row.seq), default=None)
        made.append(
            base
            | trade.instrument.contract
            | {
                "ts": trade.ts // shape.tick * shape.tick,
                "price": trade.price,
                "size": trade.size,
                "condition": names[trade.code],
                "seq": trade.seq,
                "bid": quote and quote.bid,
                "ask": quote and quote.ask,
                "quote_ts": quote and quote.ts // shape.tick * shape.tick,
            }
        )
    return made
