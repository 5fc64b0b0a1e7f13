"""The vendors' feeds of the contract tests, each with a stand-in that speaks the vendor's protocol.

A line publishes numbered trades and quotes: number n happens n tenths of a second after `NS`. A new vendor is a new
class in `LINES`.
"""

import threading
import time
from types import MappingProxyType

import pytest

from feeding import WAIT, begun
from flowtape.feeds.alpaca.feed import alpaca
from flowtape.feeds.databento.feed import databento
from flowtape.feeds.limits import Limits
from flowtape.feeds.massive.feed import massive
from flowtape.feeds.specs import parse_spec
from readers.dbn_files import SYMBOLS, cmbp, tcbbo, trade
from standins.alpaca import AlpacaServer
from standins.databento import DatabentoServer
from standins.massive import MassiveServer

KEYS = {
    "DATABENTO_API_KEY": "db-right-key-0123456789abcdefghi",
    "MASSIVE_API_KEY": "right-key",
    "APCA_API_KEY_ID": "right-id",
    "APCA_API_SECRET_KEY": "right-secret",
}
SECOND = 10**9
MS = 1_000_000
TENTH = SECOND // 10
NS = (time.time_ns() // SECOND - 120) * SECOND
"""Two minutes ago: vendors are asked for what happened up to now."""


class Line:
    """One vendor's feed with its stand-in.

    Attributes: `variables` are the environment variables with the keys; `module` is the vendor's client; `extra` is the
    extra that installs it; `joins`: trades and quotes arrive separately; `repeats`: a repeated message is one trade;
    `pages`: gaps are filled by REST; `gap_quotes`: with their quotes; `unit` is the resolution of times (ns); `program`
    runs the stand-in.
    """

    joins, repeats, pages, gap_quotes, unit = True, True, True, True, 1
    server_type = make = None
    text = ""
    more = MappingProxyType({})
    """Further arguments of a trade."""

    def __init__(self):
        self.server = self.server_type(*(KEYS[name] for name in self.variables))

    def where(self, port=None):
        """Return the `--feed` options that name the stand-in."""

    def feed(self, port=None, **limits):
        quick = {"rest_lag": 0.02} | limits
        return self.make(parse_spec(f"{self.text}&{self.where(port or self.server.port)}"), Limits(**quick))

    def started(self, running):
        """Wait until the feed has subscribed."""
        return begun(self.server, running)

    def trade(self, n, live=True, size=None, ts=None):
        ts = NS + n * TENTH if ts is None else ts
        size = n % 4 + 1 if size is None else size
        self.server.trade(self.names[n % 2], ts, self.price(n) + 0.05, size, live=live, **self.more)

    def quote(self, n, live=True, ts=None):
        """Publish the prevailing quote of trade n."""
        ts = NS + n * TENTH - TENTH // 2 if ts is None else ts
        self.server.quote(self.names[n % 2], ts, self.price(n), self.price(n) + 0.1, live=live)

    def price(self, n):
        return 1 + n / 100

    def bad_trades(self):
        """Publish two trades that are left out."""
        self.server.trade(self.names[0], NS, 1.0, 0, **self.more)
        self.server.trade(self.names[0], NS, -1.0, 1, **self.more)

    def stall(self):
        """Make the next gap impossible to fill."""
        self.server.rest_hangs = True

    def stalled(self):
        """Return whether the feed waits for the gap."""
        return bool(self.server.requests)

    def commands(self):
        """Return the commands that make the stand-in program publish one trade of size 4."""
        return [["trade", self.names[0], NS, 1.05, {"size": 4}], ["repeat", 2]]


class MassiveOptions(Line):
    variables, module, extra = ("MASSIVE_API_KEY",), "massive", "massive"
    server_type, make, unit = MassiveServer, staticmethod(massive), MS
    names = ("O:SPY261218C00500000", "O:SPXW261218P05400500")
    text = f"massive:options?symbols={','.join(names)}"
    program = ("standins.massive", "right-key")
    garbage = ("no json", b"\xff\xfe", '{"ev":"T"}', '[{"ev":"T","sym":7}]', '[{"ev":"XX"}]')

    def where(self, port):
        return f"url=127.0.0.1:{port}&rest=http://127.0.0.1:{port}&secure=0"


class MassiveStocks(MassiveOptions):
    names = ("SPY", "QQQ")
    more = MappingProxyType({"conditions": (12,)})
    text = "massive:stocks?symbols=SPY,QQQ"


class AlpacaStocks(Line):
    variables, module, extra = ("APCA_API_KEY_ID", "APCA_API_SECRET_KEY"), "alpaca.data.live", "alpaca"
    server_type, make = AlpacaServer, staticmethod(alpaca)
    names = ("SPY", "QQQ")
    text = "alpaca:stocks?symbols=SPY,QQQ"
    program = ("standins.alpaca", "right-id", "right-secret")
    garbage = (b"\xc1\xff", "no msgpack", b"\x07", b"\x91\x07", b"\x91\x81\xa1T\xa1?")

    def where(self, port):
        return f"url=ws://127.0.0.1:{port}&rest=http://127.0.0.1:{port}"


class AlpacaOptions(AlpacaStocks):
    repeats = gap_quotes = False
    names = ("SPY261218C00500000", "SPXW261218P05400500")
    text = f"alpaca:options?symbols={','.join(names)}"


class DatabentoQuoted(Line):
    """Records with their own quote."""

    variables, module, extra = ("DATABENTO_API_KEY",), "databento", "databento"
    joins = repeats = pages = False
    make = staticmethod(databento)
    text = "databento:OPRA.PILLAR?symbols=AAPL.OPT,SPXW.OPT"
    program = ("standins.databento", KEYS["DATABENTO_API_KEY"])
    garbage = (b"garbage!" * 200,)
    names = (7, 8)

    def server_type(self, key):
        return DatabentoServer(SYMBOLS, key)

    def where(self, port):
        return f"gateway=127.0.0.1&port={port}"

    def trade(self, n, live=True, size=None, ts=None):
        record = self.record(n, n % 4 + 1 if size is None else size, NS + n * TENTH if ts is None else ts)
        (self.server.publish if live else self.server.keep)(self.schema, record)

    schema = "tcbbo"

    def record(self, n, size, ts):
        bid = round(self.price(n) * 100) * 10**7
        levels = {"price": bid + 5 * 10**7, "bid": bid, "ask": bid + 10**8}
        return tcbbo(contract=self.names[n % 2], ts=ts, size=size, delay=1000, **levels)

    def quote(self, n, live=True, ts=None):
        pass

    def bad_trades(self):
        # Instrument 99 has no mapping.
        self.server.symbols[99] = "AAPL  250221C00999000"
        record = tcbbo if self.schema == "tcbbo" else trade
        self.server.publish(self.schema, record(ts=NS, size=0), record(contract=99, ts=NS))

    def stall(self):
        self.server.mute = True

    def stalled(self):
        return self.server.lines > 0

    def commands(self):
        return [["publish", self.schema, bytes(self.record(0, 4, NS)).hex()]]


class DatabentoJoined(DatabentoQuoted):
    """Trades and quotes that arrive separately."""

    joins, schema = True, "trades"
    text = f"{DatabentoQuoted.text}&schema=trades"

    def record(self, n, size, ts):
        price = round(self.price(n) * 100) * 10**7 + 5 * 10**7
        return trade(contract=self.names[n % 2], ts=ts, size=size, price=price, delay=1000)

    def quote(self, n, live=True, ts=None):
        bid = round(self.price(n) * 100) * 10**7
        ts = NS + n * TENTH - TENTH // 2 if ts is None else ts
        record = cmbp(bid, bid + 10**8, ts, contract=self.names[n % 2], delay=1000)
        (self.server.publish if live else self.server.keep)("cmbp-1", record)


LINES = {
    "massive options": MassiveOptions,
    "massive stocks": MassiveStocks,
    "alpaca options": AlpacaOptions,
    "alpaca stocks": AlpacaStocks,
    "databento tcbbo": DatabentoQuoted,
    "databento trades": DatabentoJoined,
}


def lines(which=lambda line: True):
    """Run a test over the lines for which the predicate is true."""
    return pytest.mark.parametrize(
        "line", [name for name, line in LINES.items() if which(line)], indirect=True
    )


every = lines()
joining = lines(lambda line: line.joins)
paging = lines(lambda line: line.pages)


def tape(line, low, high, live=True):
    """Publish trades from one number to another, every third with a new quote."""
    for n in range(low, high):
        if n % 3 == 0:
            line.quote(n, live)
        line.trade(n, live)


def instants(prints):
    return prints["ts"].to_physical().to_list()


def until(true):
    """Wait for a state that outlets do not report."""
    ends = time.monotonic() + WAIT
    while not true() and time.monotonic() < ends:
        threading.Event().wait(0.005)
    assert true()
