"""The page's web server: one HTML file, one WebSocket, and questions added and removed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote_plus

import orjson
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from codecflow.errors import CodecFlowError, ConfigError, SourceError
from codecflow.subscriber.recording import NotThereError

from .access import COOKIE, Access
from .changes import Change, add_question, add_zone, remove_question, remove_zone
from .cutting import cut_event
from .hub import Hub

_STATIC = Path(__file__).parent / "static"
_FILES = {
    "/uplot.js": ("uplot.js", "text/javascript"),
    "/uplot.css": ("uplot.css", "text/css"),
    "/uplot.LICENSE": ("uplot.LICENSE", "text/plain"),
}
_MAX_BODY_BYTES = 1 << 20
_MAX_CUTTING = 2
"""Maximum number of concurrent clip cuts."""

_WRONG_TOKEN_S = 0.5
_COOKIE_S = 30 * 86_400
_logger = logging.getLogger("codecflow.page")


def _policy(page: str) -> str:
    """The content security policy: only the page itself. Its script and style are listed by their hashes, so that nothing
    else can run."""

    def hashes(tag: str) -> str:
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in texts)

    return (
        f"default-src 'none'; script-src 'self' {hashes('script')}; style-src 'self' {hashes('style')}; "
        "connect-src 'self'; media-src blob:; img-src blob: data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )


def build(access: Access, hub: Callable[[], Hub]) -> Starlette:
    """The application. `hub` is called once requests come."""
    page = _Page(access, hub)
    return Starlette(
        routes=[
            Route("/", page.home),
            Route("/status", page.status),
            *(Route(path, page.file) for path in _FILES),
            Route("/login", page.login, methods=["POST"]),
            Route("/streams/{stream}/questions", page.questions, methods=["POST", "DELETE"]),
            Route("/streams/{stream}/zones", page.zones, methods=["POST", "DELETE"]),
            Route("/streams/{stream}/events/{event}/clip", page.clip),
            WebSocketRoute("/ws", page.socket),
        ]
    )


class _Page:
    """The request handlers."""

    def __init__(self, access: Access, hub: Callable[[], Hub]) -> None:
        self._access, self._hub = access, hub
        self._cutting = asyncio.Semaphore(_MAX_CUTTING)
        self._html = (_STATIC / "page.html").read_text()
        self._login = (_STATIC / "login.html").read_text()
        self._files = {path: ((_STATIC / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}

    async def home(self, request: Request) -> Response:
        """The page, or the form that asks for the token."""
        if (no := self._refused(request)) is not None:
            return _html(self._login, no.status_code) if no.status_code == 401 else no
        return _html(self._html, 200)

    async def file(self, request: Request) -> Response:
        """A file that the page loads."""
        if (no := self._refused(request)) is not None:
            return no
        content, kind = self._files[request.url.path]
        return Response(content, media_type=kind, headers={"Cache-Control": "max-age=3600"})

    async def login(self, request: Request) -> Response:
        """The token in a form: returns a cookie if it is correct."""
        if not self._access.is_called(request.headers.get("host", "")):
            return _error(421, "this page is not known by that name")
        found = re.search(rb"(?:^|&)token=([^&]*)", await _body(request) or b"")
        given = unquote_plus(found[1].decode("ascii", "replace")).strip() if found else ""
        if not self._access.accepts(given):
            await asyncio.sleep(_WRONG_TOKEN_S)  # slows down guessing
            return _html(self._login, 401)
        answer = RedirectResponse("/", 303)
        secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
        cookie = self._access.cookie()
        answer.set_cookie(COOKIE, cookie, max_age=_COOKIE_S, httponly=True, samesite="strict", secure=secure)
        return answer

    async def status(self, request: Request) -> Response:
        """What the page holds, as JSON."""
        return self._refused(request) or JSONResponse(self._hub().figures())

    async def questions(self, request: Request) -> Response:
        """Add or remove a question."""
        make = remove_question if request.method == "DELETE" else add_question
        return await self._change(request, make, "a question is expected: prompt, type, labels, event, id")

    async def zones(self, request: Request) -> Response:
        """Add or remove a zone."""
        make = remove_zone if request.method == "DELETE" else add_zone
        return await self._change(request, make, "a zone is expected: name, use, polygon")

    async def clip(self, request: Request) -> Response:
        """An event's clip as a download: MP4, or ZIP if there are several files."""
        if (no := self._refused(request)) is not None:
            return no
        hub, stream = self._hub(), request.path_params["stream"]
        if self._cutting.locked():
            return _error(503, "other clips are being cut; try again in a moment")
        async with self._cutting:
            try:
                folder, path = await asyncio.to_thread(
                    cut_event, hub.settings, stream, request.path_params["event"], lambda: hub.closed
                )
            except ConfigError as error:
                return _error(400, str(error))
            except (NotThereError, SourceError) as error:
                return _error(404, str(error))
            except CodecFlowError as error:
                return _error(502, str(error))
        kind = "application/zip" if path.suffix == ".zip" else "video/mp4"
        return FileResponse(path, media_type=kind, filename=path.name, background=BackgroundTask(folder.cleanup))

    async def _change(self, request: Request, make: Change, expected: str) -> Response:
        """Change a stream's definition according to a request's body."""
        if (no := self._refused(request, changes=True)) is not None:
            return no
        if (body := await _body(request)) is None:
            return _error(413, "too long")
        try:
            wanted = dict(orjson.loads(body).items())
            settings, stream = self._hub().settings, request.path_params["stream"]
            described = await asyncio.to_thread(make, settings, stream, wanted)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return _error(400, expected)
        except ConfigError as error:
            return _error(400, str(error))
        except CodecFlowError as error:
            return _error(502, str(error))
        return JSONResponse({"questions": len(described.questions), "zones": len(described.zones)})

    async def socket(self, ws: WebSocket) -> None:
        """Serves one browser, as long as it is connected."""
        hub = self._hub()
        if self._refused(ws, changes=True) is not None or (viewer := hub.join()) is None:
            await ws.close(1008)  # before it is accepted: the browser gets 403
            return
        await ws.accept()

        async def send() -> None:
            while True:
                message = await viewer.outbox.next()
                if isinstance(message, str):
                    await ws.send_text(message)
                else:
                    await ws.send_bytes(message)

        async def receive() -> None:
            while True:
                viewer.command(await ws.receive_text())

        tasks = [asyncio.create_task(send()), asyncio.create_task(receive())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hub.leave(viewer)
            for task in tasks:
                task.cancel()
            for done in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(done, Exception) and not isinstance(done, WebSocketDisconnect):
                    _logger.debug("%r", done)
            with suppress(RuntimeError):
                await ws.close()

    def _refused(self, request: HTTPConnection, *, changes: bool = False) -> Response | None:
        """The reason for refusing a request, if any."""
        headers, access = request.headers, self._access
        if not access.is_called(headers.get("host", "")):
            return _error(421, "this page is not known by that name; add it with --host-name")
        if not access.admits(headers, request.cookies):
            return _error(401, "a token is needed")
        if changes and not access.is_own(headers):
            return _error(403, "this request does not come from the page itself; behind a proxy use --origin")
        return None


def _html(text: str, status: int) -> Response:
    headers = {
        "Content-Security-Policy": _policy(text),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store" if status == 401 else "no-cache",
    }
    return HTMLResponse(text, status, headers)


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status)


async def _body(request: Request) -> bytes | None:
    """A request's body; None if it is too long."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            return None
    return body
