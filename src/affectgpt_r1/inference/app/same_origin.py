"""Keep pages of other sites from using the page on this machine."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class SameOrigin:
    """Answer 403 to what another site's page sends, and where the page is for this machine only, to other names of it.

    Gradio keeps such a page from reading the reply, but does what it asks: a form may post a file without permission.
    A name that its owner points at 127.0.0.1 later would make that page one of this origin (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, *, loopback_only: bool) -> None:
        self.app, self.loopback_only = app, loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            is_foreign = headers.get("origin", f"://{host}").partition("://")[2] != host
            is_renamed = self.loopback_only and host.rpartition(":")[0].strip("[]") not in LOOPBACK
            if is_foreign or is_renamed:
                await PlainTextResponse("Refused: not from this page.", 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)
