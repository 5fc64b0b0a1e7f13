"""The vendors of the runs with faults: their stand-ins, the rows of a tape that they publish, and the faults of their
connections. A new vendor is a new entry of `KINDS`."""

import contextlib
import itertools
import json
from datetime import date
from types import MappingProxyType

import msgpack
import websockets

from chaos_tapes import MS, SECOND, Instrument, Shape
from readers.dbn_files import UNDEF, cmbp, tcbbo, trade
from standins.alpaca import AlpacaServer
from standins.databento import DatabentoServer
from standins.massive import MassiveServer

DATABENTO_KEY = "db-right-key-0123456789abcdefghi"
MASSIVE_KEY = "right-key"
ALPACA_KEY, ALPACA_SECRET = "right-key", "right-secret"
KEYS = {
    "DATABENTO_API_KEY": DATABENTO_KEY,
    "MASSIVE_API_KEY": MASSIVE_KEY,
    "APCA_API_KEY_ID": ALPACA_KEY,
    "APCA_API_SECRET_KEY": ALPACA_SECRET,
}
UNITS = 100_000
"""Databento's 1e-9 USD in 1/10,000 USD."""
LATE = 30 * SECOND
"""Well within the 60 s that the join of trades and quotes waits for what is late."""


def option(name, symbol, root, right, strike, expiry=date(2026, 12, 18)):
    contract = {"symbol": symbol, "root": root, "expiry": expiry, "right": right, "strike": strike}
    return Instrument(name, {"asset": "option"} | contract)


def stock(name, symbol):
    none = dict.fromkeys(("expiry", "right", "strike"))
    return Instrument(name, {"asset": "stock", "symbol": symbol, "root": symbol} | none)


class Databento:
    """`tcbbo`, whose records have their own quote. Records are never repeated or reordered, only late."""

    schema = "tcbbo"
    shape = Shape(late_trades=2 * SECOND)
    names, venue = MappingProxyType({0: "unknown"}), "XISX"
    faults = ("kill", "cut", "cut", "delay", "garbage", "torn")
    reverse = None
    from_the_start = True
    instruments = (
        option("AAPL  261218C00250000", "AAPL", "AAPL", "C", 2_500_000),
        option("AAPL  261218P00250000", "AAPL", "AAPL", "P", 2_500_000),
        option("SPXW  261218P05900000", "SPX", "SPXW", "P", 59_000_000),
        option("AAPL1 261218C00247500", "AAPL", "AAPL1", "C", 2_475_000),
    )

    def __init__(self, quotes):
        """Take the `quotes` of the trades, by the trade's position among the rows (`Row.seq`)."""
        self.quotes = quotes
        self.number = {one.name: place for place, one in enumerate(self.instruments, 7)}
        self.server = DatabentoServer({number: name for name, number in self.number.items()}, DATABENTO_KEY)
        # After malformed bytes a decoder waits for more data; the vendor's heartbeats supply it.
        self.server.heartbeat = 0.1

    def feed(self, begin):
        start = f"&start={begin:%Y-%m-%dT%H:%M:%SZ}"
        where = f"gateway=127.0.0.1&port={self.server.port}"
        return (
            f"databento:OPRA.PILLAR?symbols=AAPL.OPT,SPXW.OPT,AAPL1.OPT&schema={self.schema}&{where}{start}"
        )

    def connected(self):
        return self.server.connected()

    def publish(self, rows, repeat=1):
        for row in rows:
            self._publish(row, repeat)

    def _publish(self, row, repeat):
        if row.size:
            bid, ask = (UNDEF if price is None else price * UNITS for price in self.quotes[row.seq])
            self.server.publish("tcbbo", tcbbo(**self.traded(row), bid=bid, ask=ask))

    def traded(self, row):
        named = {"contract": self.number[row.instrument.name], "ts": row.ts, "delay": row.due - row.ts + 1000}
        return named | {"price": row.price * UNITS, "size": row.size, "venue": 26}

    def garbage(self, chance):
        self.server.say(chance.randbytes(chance.choice([1, 7, 100, 1600])))

    def torn(self, chance, row):
        """Cut the connection within a record."""
        record = bytes(tcbbo(contract=7, ts=row.ts))
        self.server.say(record[: chance.randrange(1, len(record))])
        self.server.cut()

    def calm(self):
        self.server.repeat = 1
        self.server.until_cut = None


class DatabentoJoined(Databento):
    """`trades` and `cmbp-1`: late and repeated quotes, and a replay of one schema after the other."""

    schema = "trades"
    shape = Shape(late_trades=2 * SECOND, late_quotes=LATE)
    faults = ("kill", "cut", "cut", "delay", "garbage", "torn", "repeat")

    def __init__(self, quotes):
        super().__init__(quotes)
        self.server.apart = len(quotes) % 2 == 0

    def _publish(self, row, repeat):
        if row.size:
            self.server.publish("trades", trade(**self.traded(row)))
        else:
            self.server.repeat = repeat
            number, delay = self.number[row.instrument.name], row.due - row.ts + 1000
            quote = cmbp(row.bid * UNITS, row.ask * UNITS, row.ts, contract=number, delay=delay)
            self.server.publish("cmbp-1", quote)
            self.server.repeat = 1


class Massive:
    """Options. Messages of the websocket may be repeated, late and reordered."""

    market = "options"
    venue = "312"
    shape = Shape(MS, LATE, LATE, (209, 209, 227, 229, 233), (201, 203), numbered=True)
    names = MappingProxyType({209: "AUTO", 227: "SLAN", 229: "SLCN", 233: "MLAT", 201: "CANC", 203: "CNCL"})
    faults = ("kill", "cut", "cut", "delay", "garbage", "repeat", "again", "reverse")
    reverse = 1500 * MS
    """Event time within which what is held is let go in reverse: option trades alike are told apart by their number
    for 2 s."""
    from_the_start = False
    instruments = (
        option("O:SPY261218C00500000", "SPY", "SPY", "C", 5_000_000),
        option("O:SPXW261218P05400500", "SPX", "SPXW", "P", 54_005_000),
        option("O:SPY261218P00500000", "SPY", "SPY", "P", 5_000_000),
    )

    def __init__(self, quotes):
        self.server = MassiveServer(MASSIVE_KEY)

    def feed(self, begin):
        symbols = ",".join(one.name for one in self.instruments)
        where = f"url={self.server.url}&rest={self.server.rest_url}&secure=0"
        return f"massive:{self.market}?symbols={symbols}&{where}"

    def connected(self):
        return self.server.connected()

    def publish(self, rows, repeat=1):
        self.server.repeat = repeat
        # REST has all trades of a millisecond as soon as the websocket has one of them.
        for _, group in itertools.groupby(rows, lambda row: row.ts // MS):
            held = self.server.held is not None
            if not held:
                self.server.hold()
            for row in group:
                self._publish(row)
            if not held:
                self.server.release()
        self.server.repeat = 1

    def _publish(self, row):
        name = row.instrument.name
        if row.size:
            # A stock's trade has its exchange's number. An option's trade has a number only on the websocket.
            self.server.trade(
                name, row.ts, row.price / 10_000, row.size, conditions=(row.code,), exchange=312, seq=row.seq
            )
        else:
            self.server.quote(name, row.ts, row.bid / 10_000, row.ask / 10_000, seq=row.seq)

    def garbage(self, chance):
        name = self.instruments[0].name
        texts = (
            "not json at all", b"\xff\xfe", '{"ev":"T"}', '[{"ev":"T","sym":7},{"ev":"XX"}]', "[[[]]", "[]", "null",
            json.dumps([{"ev": "T", "sym": name, "p": -1.0, "s": 1, "x": 312, "t": 1_700_000_000_000, "q": 1}]),
            json.dumps([{"ev": "Q", "sym": name, "bp": 1.0, "ap": 1.1, "t": 5, "q": 1}]),
        )  # fmt: skip
        self._say(chance.choice(texts))

    def again(self, chance):
        """Send some of the last messages again."""
        recent = self.server.events[-12:]
        self._say(json.dumps(chance.sample(recent, min(len(recent), chance.randint(1, 12)))))

    def _say(self, text):
        with contextlib.suppress(websockets.ConnectionClosed):
            self.server.say(text)

    def calm(self):
        self.server.repeat = 1
        self.server.until_cut = None


class MassiveStocks(Massive):
    """Stocks, whose trades are all numbered."""

    market, venue = "stocks", "4"
    shape = Shape(MS, LATE, LATE, (12,), numbered=True)
    names = MappingProxyType({12: "unknown"})
    reverse = 10 * SECOND
    instruments = (stock("SPY", "SPY"), stock("QQQ", "QQQ"), stock("TpC", "T.PRC"))


class AlpacaStocks(Massive):
    """Stocks in msgpack, whose quotes are not numbered."""

    venue = "C"
    shape = Shape(1, LATE, LATE)
    names = MappingProxyType({0: "unknown"})
    reverse = 10 * SECOND
    instruments = (stock("SPY", "SPY"), stock("QQQ", "QQQ"), stock("AAPL", "AAPL"))

    def __init__(self, quotes):
        self.server = AlpacaServer(ALPACA_KEY, ALPACA_SECRET)

    def feed(self, begin):
        symbols = ",".join(one.name for one in self.instruments)
        return f"alpaca:stocks?symbols={symbols}&url={self.server.url}&rest={self.server.rest_url}"

    def _publish(self, row):
        name = row.instrument.name
        if row.size:
            self.server.trade(name, row.ts, row.price / 10_000, row.size, id=row.seq)
        else:
            self.server.quote(name, row.ts, row.bid / 10_000, row.ask / 10_000)

    def garbage(self, chance):
        trade = {"T": "t", "S": "SPY", "i": 1, "x": "C", "p": -1.0, "s": 1, "z": "B"}
        things = ([], None, {"T": "t"}, [7], [{"T": "t", "S": 7}], [trade], [{"T": "zz"}], "text")
        packed = [msgpack.packb(thing) for thing in things]
        self._say(chance.choice([*packed, b"\xc1", b"\x91\x82\xa1"]))

    def again(self, chance):
        """Send some of the last messages again."""
        recent = self.server.events[-12:]
        self._say(msgpack.packb(chance.sample(recent, min(len(recent), chance.randint(1, 12)))))


KINDS = {
    "alpaca stocks": AlpacaStocks,
    "databento tcbbo": Databento,
    "databento trades": DatabentoJoined,
    "massive options": Massive,
    "massive stocks": MassiveStocks,
}
