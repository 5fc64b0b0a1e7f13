"""An application asked without a socket."""

import httpx

from flowtape.server.protocol import Reply, Request


async def ask(app, target, headers=None, method="GET"):
    """The reply to a request; `target` is bytes."""
    found = app.answer(Request(method, target, headers or {}))
    return found if isinstance(found, Reply) else await found


class Transport(httpx.AsyncBaseTransport):
    """Lets a client of httpx ask an application in its own process."""

    def __init__(self, app):
        self.app = app

    async def handle_async_request(self, request):
        headers = {name.lower(): value for name, value in request.headers.raw}
        found = await ask(self.app, request.url.raw_path, headers, request.method)
        head = [tuple(line.split(b": ", 1)) for line in found.head.split(b"\r\n") if line]
        return httpx.Response(found.status, headers=head, content=found.body)
