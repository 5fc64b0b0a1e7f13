"""chDB behind as much of ClickHouse's HTTP interface as its official client uses, in a process of its own.

python tests/http_engine.py FOLDER [PORT [SHARDS]]      prints its port, serves until it is ended

Where a file FOLDER.busy is, the next insert is refused as a cluster does while another waits for its quorum.

With SHARDS the engine has a cluster `desk` of so many shards, each of which is the engine itself. It has no Keeper, so
that what a statement says of replicas is taken out; tables are Distributed ones over local ones, as on any cluster.
"""

import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import chdb

LOCK = threading.Lock()
SHARD = """<shard><internal_replication>true</internal_replication>
<replica><host>127.0.0.1</host><port>9000</port></replica></shard>"""
CONFIG = """<clickhouse><tcp_port>9000</tcp_port>
<remote_servers><desk>{}</desk></remote_servers></clickhouse>"""
REPLICAS = {
    r" ON CLUSTER desk": "",
    r"Replicated(\w*MergeTree)\('[^']*', '{replica}'(?:, )?": r"\1(",
    r" replicated_deduplication": " non_replicated_deduplication",
}
BETWEEN_REPLICAS = {"prefer_localhost_replica", "insert_quorum", "insert_quorum_parallel"}
# What rides in the address beside settings of the query.
OURS = {"query", "database", "default_format", "session_id", "query_id", "user", "password", "role",
        "client_protocol_version", "compress", "decompress", "enable_http_compression", "wait_end_of_query",
        "send_progress_in_http_headers", "http_headers_progress_interval_ms", "buffer_size",
        "cancel_http_readonly_queries_on_client_close"}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """One request: a statement in the body or in `query`, data after it in the body."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    connection = busy = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer(b"Ok.\n") if self.path == "/ping" else self.do_POST()

    def do_POST(self):
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            body = b"".join(self.chunks())
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}
        try:
            self.answer(self.carry_out(asked, body))
        except Exception as error:
            self.answer(str(error).encode(), 500)

    def chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def carry_out(self, asked, body):
        statement = asked.get("query")
        data = body
        if statement is None:
            head, _, rest = body.partition(b"\n")
            inserts = head.lstrip().upper().startswith(b"INSERT") and b" FORMAT " in head.upper()
            statement, data = (head.decode(), rest) if inserts else (body.decode(), b"")
        for pattern, plain in REPLICAS.items():
            statement = re.sub(pattern, plain, statement)
        settings = {
            name: value
            for name, value in asked.items()
            if name not in OURS | BETWEEN_REPLICAS and not name.startswith("param_")
        }
        told = ", ".join(f"{name} = '{value}'" for name, value in settings.items())
        with LOCK:
            if data and Handler.busy.exists():
                Handler.busy.unlink()
                raise RuntimeError(
                    "Code: 286. DB::Exception: Another quorum insert has been already started."
                )
            if data:
                into, _, form = statement.rpartition(" FORMAT ")
                with Handler.connection.send_insert(
                    f"{into} SETTINGS {told}" if told else into, form.strip()
                ) as line:
                    line.append(data)
                    line.finish()
                return b""
            body_of, _, form = statement.rpartition("FORMAT ")
            if not body_of or "\n" in form.strip() or " " in form.strip():
                body_of, form = statement, asked.get("default_format", "TabSeparated")
            select = body_of.lstrip().upper().startswith(("SELECT", "WITH"))
            if select and told and " SETTINGS " not in body_of:
                body_of = f"{body_of} SETTINGS {told}"
            return bytes(Handler.connection.query(body_of, form.strip()).bytes())

    def answer(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-ClickHouse-Summary", "{}")
        self.send_header("X-ClickHouse-Timezone", "UTC")
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    folder, port, shards = sys.argv[1], *(int(number) for number in [*sys.argv[2:], 0, 0][:2])
    Handler.busy = Path(f"{folder}.busy")
    if shards:
        config = Path(f"{folder}.xml")
        config.write_text(CONFIG.format(SHARD * shards))
        folder += f"?config-file={config}"
    Handler.connection = chdb.connect(folder)
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()
