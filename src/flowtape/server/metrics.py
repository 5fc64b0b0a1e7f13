"""`/metrics` for Prometheus: the server and its feeds. Labels hold route templates, never paths or keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from flowtape.errors import UsageError
from flowtape.pipeline.supervisor import FeedReport

MEDIA = CONTENT_TYPE_LATEST.encode()
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class LiveState(Protocol):
    """The live feeds, read at each scrape."""

    queue_prints: int
    queue_limit: int

    def feeds(self) -> list[FeedReport]:
        """Return the state of each feed."""


class ConnectionState(Protocol):
    """The connections, read at each scrape."""

    most: int

    @property
    def open(self) -> int:
        """The number of open connections."""

    @property
    def closed(self) -> Mapping[str, int]:
        """Connections closed so far, by reason."""


class Metrics:
    """The metrics of one server. Every method but `request` may be called from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests: dict[tuple[str, int], int] = {}
        self._registry.register(_RequestCollector(self._requests))
        self._volume = Counter(
            "flowtape_volume", "Contracts or shares taken from live feeds.", ("source", "asset", "side"),
            registry=self._registry,
        )  # fmt: skip
        self._unsided = Gauge(
            "flowtape_unsided_share", "Share of the last batch's volume whose side is unknown.", ("asset",),
            registry=self._registry,
        )  # fmt: skip
        self._prints = Counter("flowtape_prints", "Live prints committed.", registry=self._registry)
        self._commit = Histogram(
            "flowtape_commit_seconds", "What a commit takes.", buckets=_SECONDS, registry=self._registry
        )
        self._show = Histogram(
            "flowtape_show_seconds", "From a delivery's arrival until answers have it.", buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip

    def request(self, route: str, status: int) -> None:
        """Count an answered request; `route` is a template of the route table. Called on the event loop only."""
        place = route, status
        self._requests[place] = self._requests.get(place, 0) + 1

    def published(
        self, source: str, sides: Mapping[tuple[str, str], float], waits: Sequence[tuple[float, int]]
    ) -> None:
        """Count published prints and their delay."""
        for seconds, _ in waits:
            self._show.observe(seconds)
        totals: dict[str, float] = {}
        for (asset, side), many in sides.items():
            self._volume.labels(source, asset, side).inc(many)
            totals[asset] = totals.get(asset, 0) + many
        for asset, total in totals.items():
            if total:
                self._unsided.labels(asset).set(sides.get((asset, "mid"), 0) / total)

    def committed(self, seconds: float, prints: int) -> None:
        """Observe a commit of live prints."""
        self._commit.observe(seconds)
        self._prints.inc(prints)

    def watch(self, live: LiveState) -> None:
        """Export the state of live feeds."""
        self._registry.register(_LiveCollector(live))

    def watch_counts(self, away: Callable[[], bool]) -> None:
        """Export whether the shared counts of requests are unreachable."""
        gauge = Gauge(
            "flowtape_counts_away", "Whether shared counts cannot be reached.", registry=self._registry
        )
        gauge.set_function(away)

    def count_streams(self, clients: Callable[[], int]) -> None:
        """Export the number of open streams."""
        gauge = Gauge("flowtape_stream_clients", "Streams that are open.", registry=self._registry)
        gauge.set_function(clients)

    def watch_connections(self, connections: ConnectionState) -> None:
        """Export how many connections are open, and how many were closed for being too many."""
        self._registry.register(_ConnectionCollector(connections))

    def serve(self, host: str, port: int) -> Callable[[], None]:
        """Serve the page at an address of its own, for a process without the API; return a function that ends it.

        Raises `UsageError` if the address cannot be used.
        """
        try:
            server, thread = start_http_server(port, host, self._registry)
        except OSError as error:
            raise UsageError(
                f"--metrics-port {port}: {host} cannot be listened on: {error.strerror}"
            ) from None

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return end

    def page(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class _RequestCollector(Collector):
    """Requests by route and status, in a plain dictionary: a counter of the library takes a lock at each request."""

    def __init__(self, requests: dict[tuple[str, int], int]) -> None:
        self._requests = requests

    def collect(self) -> Iterable[Metric]:
        """Read when asked."""
        told = CounterMetricFamily("flowtape_requests", "Requests answered.", labels=("route", "status"))
        for (route, status), many in self._requests.copy().items():
            told.add_metric((route, str(status)), many)
        yield told


class _LiveCollector(Collector):
    def __init__(self, live: LiveState) -> None:
        self._live = live

    def collect(self) -> Iterable[Metric]:
        """Read when asked."""
        live = self._live
        for name, text, value in (
            ("queue_prints", "Live prints that wait to be kept.", live.queue_prints),
            ("queue_limit", "Live prints that may wait before a feed is made to.", live.queue_limit),
        ):
            yield GaugeMetricFamily(f"flowtape_{name}", text, value)
        connected, lag, silence = (
            GaugeMetricFamily(f"flowtape_feed_{name}", text, labels=("feed",))
            for name, text in (
                ("connected", "Whether a feed's connection stands."),
                ("lag_seconds", "From a feed's newest print to its being shown."),
                ("silence_seconds", "Since a feed was heard, while its market is open."),
            )
        )
        broken = CounterMetricFamily(
            "flowtape_feed_reconnects", "Connections that broke off.", labels=("feed",)
        )
        notes = CounterMetricFamily(
            "flowtape_feed_notes",
            "What a feed left out or found out of the ordinary.",
            labels=("feed", "what"),
        )
        for feed in live.feeds():
            connected.add_metric((feed.name,), feed.connected)
            broken.add_metric((feed.name,), feed.reconnects)
            if feed.lag is not None:
                lag.add_metric((feed.name,), feed.lag)
            if feed.silence is not None:
                silence.add_metric((feed.name,), feed.silence)
            for what, many in feed.notes.items():
                notes.add_metric((feed.name, what), many)
        yield from (connected, lag, silence, broken, notes)


class _ConnectionCollector(Collector):
    def __init__(self, connections: ConnectionState) -> None:
        self._connections = connections

    def collect(self) -> Iterable[Metric]:
        """Read when asked."""
        now = self._connections
        yield GaugeMetricFamily("flowtape_connections", "Connections that are open.", now.open)
        yield GaugeMetricFamily("flowtape_connections_limit", "Connections that may be open.", now.most)
        closed = CounterMetricFamily(
            "flowtape_connections_closed", "Connections closed, being too many.", labels=("why",)
        )
        for why in ("address", "room"):
            closed.add_metric((why,), now.closed.get(why, 0))
        yield closed
