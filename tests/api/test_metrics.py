"""`/metrics` over a socket, parsed by Prometheus's own parser."""

import threading

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flowtape.feeds.base import Delivery
from flowtape.pipeline.supervisor import Live
from flowtape.server.app import Application
from flowtape.server.metrics import Metrics
from flowtape.settings import Settings
from oracle import MINUTE
from serving import kept, serving
from tapes import T0, frame, row

LIMIT = 20


class Feed:
    source = name = "test"
    assets, symbols, always_open, ends = frozenset({"option"}), (), True, False

    def __init__(self):
        self.go = threading.Event()

    def restore(self, standing):
        pass

    def run(self, outlet, cursor):
        self.go.wait(LIMIT)
        outlet.count("messages not understood", 3)
        outlet.put(Delivery(frame([row(seq=1, size=3, price=13_000), row(seq=2)]), "1"))
        outlet.stop.wait()


@pytest.fixture
def world(tmp_path):
    with kept(tmp_path, T0 + MINUTE) as made:
        made.metrics = Metrics()
        made.app = Application(
            made.flow, made.book, made.usage, Settings(), made.clock.now_ns, metrics=made.metrics
        )
        with serving(made.app) as url:
            made.url = url
            yield made


def read(world):
    reply = httpx.get(world.url + "/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    assert "access-control-allow-origin" not in reply.headers
    samples = {}
    for family in text_string_to_metric_families(reply.text):
        for sample in family.samples:
            samples[sample.name, *sample.labels.values()] = sample.value
    return samples


def test_requests_are_counted_by_route_and_status(world):
    ours = {"X-Api-Key": world.keys["alpha"]}
    path = "/v1/flow/options/{}/cumulative"
    for symbol in ("SPY", "QQQ"):
        httpx.get(world.url + path.format(symbol), headers=ours)
    httpx.get(world.url + path.format("SPY"))
    httpx.get(world.url + path.format("SPY") + f"?minutes=x&apiKey={world.keys['alpha']}")
    httpx.get(world.url + "/no/such/" + world.keys["alpha"])
    httpx.get(world.url + "/health")
    samples = read(world)
    route = path.format("{symbol}")
    assert samples["flowtape_requests_total", route, "200"] == 2
    assert samples["flowtape_requests_total", route, "401"] == 1
    assert samples["flowtape_requests_total", route, "400"] == 1
    assert samples["flowtape_requests_total", "other", "404"] == 1
    assert samples["flowtape_requests_total", "/health", "200"] == 1
    assert world.keys["alpha"] not in httpx.get(world.url + "/metrics").text


def test_metrics_show_the_state_of_feeds(world):
    feed = Feed()
    live = Live(world.ingestor, [feed], world.clock, world.metrics)
    world.metrics.watch(live)
    live.start()
    assert read(world)["flowtape_feed_connected", "test"] == 0
    feed.go.set()
    while not (samples := read(world)).get(("flowtape_prints_total",)):
        pass
    live.stop()
    assert samples["flowtape_prints_total",] == 2
    assert samples["flowtape_volume_total", "option", "buy", "test"] == 3
    assert samples["flowtape_unsided_share", "option"] == 0.25
    assert samples["flowtape_feed_connected", "test"] == 1
    assert samples["flowtape_feed_lag_seconds", "test"] == pytest.approx(60)
    assert samples["flowtape_feed_notes_total", "test", "messages not understood"] == 3
    assert samples["flowtape_queue_limit",] == live.queue_limit
    assert samples["flowtape_commit_seconds_count",] >= 1
    assert samples["flowtape_show_seconds_count",] == 1


def test_open_streams_are_counted(world):
    path = world.url + "/v1/flow/options/SPY/cumulative/stream"
    with httpx.stream("GET", path, headers={"X-Api-Key": world.keys["alpha"]}) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert read(world)["flowtape_stream_clients",] == 1
    while read(world)["flowtape_stream_clients",]:
        pass
