"""What stands in deploy/: read by the tools it is for, where they are, and held against the program."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import click
import pytest
import yaml

from flowtape.cli import commands
from flowtape.server.auth.keys import check_place
from flowtape.server.metrics import Metrics
from flowtape.settings import load, table
from flowtape.storage.clickhouse.connection import parse

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
OTHERS = {"up"}


def tool(name):
    found = shutil.which(name, path="/usr/local/bin:/usr/bin:/usr/sbin:/bin")
    return found or pytest.skip(f"no {name} here")


def run(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def metrics_of(text):
    return set(re.findall(r"\bflowtape_[a-z_]+", text))


def known_metrics():
    page = ROOT / "docs" / "reference/metrics.md"
    names = metrics_of(page.read_text())
    shown = metrics_of(Metrics().page().decode())
    return names | shown | {f"{name}_bucket" for name in names if name.endswith("_seconds")}


def parsed(words):
    """A command as the command line takes it, not run."""
    # Below the program's own context: a command keeps the help option that it first had.
    parent = click.Context(commands, info_name="flowtape", **commands.context_settings)
    command = commands.commands[words[0]]
    if isinstance(command, click.Group):
        words = words[1:]
        command = command.commands[words[0]]
    command.make_context(words[0], list(words[1:]), parent)


def test_every_image_has_a_version_and_every_port_stays_here():
    for name, service in COMPOSE["services"].items():
        image = service["image"]
        assert ":" in image, name
        assert image == "flowtape:latest" or not image.endswith(":latest"), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_every_setting_and_command_of_the_compose_file_is_the_program_s():
    known = {row.variable for row in table()}
    for name, service in COMPOSE["services"].items():
        told = {key for key in service.get("environment", {}) if key.startswith("FLOWTAPE_")}
        assert told <= known, name
        if service["image"].startswith("flowtape"):
            parsed([re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in service["command"]])


def test_the_compose_file_s_settings_go_together():
    told = COMPOSE["services"]["api-1"]["environment"]
    environ = {name: re.sub(r"\$\{\w+:\?[^}]*\}", "word", value) for name, value in told.items()}
    settings = load(environ=environ)
    parse(settings.store)
    check_place(settings)


def test_what_a_service_waits_for_and_mounts_is_there():
    for name, service in COMPOSE["services"].items():
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"]), name
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], (
                mount
            )


def test_the_cluster_s_hosts_are_the_compose_file_s():
    hosts = {
        node.text for path in (DEPLOY / "clickhouse").glob("*.xml") for node in ET.parse(path).iter("host")
    }
    assert len(hosts) == 5
    assert hosts <= set(COMPOSE["services"])
    (macros,) = ET.parse(DEPLOY / "clickhouse" / "cluster.xml").iter("macros")
    for node in macros:
        assert all(
            node.attrib["from_env"] in COMPOSE["services"][name]["environment"] for name in hosts - {"keeper"}
        )


def test_alerts_and_dashboard_ask_for_metrics_there_are():
    texts = [(DEPLOY / "prometheus" / "alerts.yaml").read_text()]
    for panel in json.loads((DEPLOY / "grafana" / "dashboards" / "flowtape.json").read_text())["panels"]:
        texts += [target["expr"] for target in panel["targets"]]
    asked = set().union(*map(metrics_of, texts))
    assert asked
    assert asked <= known_metrics()


def test_every_alert_is_explained():
    operations = (ROOT / "docs" / "how-to/deploy.md").read_text()
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"][0]["rules"]
    assert {rule["alert"] for rule in rules} == set(re.findall(r"^\| `(\w+)` \|", operations, re.MULTILINE))


def test_prometheus_takes_its_files():
    promtool = tool("promtool")
    run(promtool, "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    run(promtool, "test", "rules", DEPLOY / "prometheus" / "alerts_test.yaml")


def test_nginx_takes_its_file(tmp_path):
    # The nodes' names are the compose file's; here they have no address.
    text = (DEPLOY / "nginx.conf").read_text().replace("api-1", "127.0.0.1").replace("api-2", "127.0.0.2")
    (tmp_path / "nginx.conf").write_text(text.replace("/tmp/", f"{tmp_path}/"))
    run(tool("nginx"), "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "log")


def test_systemd_takes_its_units(tmp_path):
    verify = tool("systemd-analyze")
    for kind in ("serve", "ingest"):
        text = (DEPLOY / "systemd" / f"flowtape-{kind}@.service").read_text()
        (start,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
        for name, value in (("%i", "8787"), ("${FEED}", "simulate:"), ("${METRICS_PORT}", "9101")):
            start = start.replace(name, value)
        words = shlex.split(start)
        parsed(words[1:])
        (tmp_path / f"flowtape-{kind}@.service").write_text(text.replace(words[0], sys.executable))
        run(verify, "verify", tmp_path / f"flowtape-{kind}@8787.service")


def test_commands_that_operations_names_are_the_program_s():
    operations = (ROOT / "docs" / "how-to/deploy.md").read_text()
    found = re.findall(r"^flowtape (.*)$", operations, re.MULTILINE)
    assert found
    for line in found:
        parsed(shlex.split(line))
