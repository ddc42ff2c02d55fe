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
from typing import Any
from urllib.parse import unquote_plus

import orjson
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from codecflow import subscriber
from codecflow.errors import CodecFlowError, ConfigError
from codecflow.kafka.settings import KafkaSettings

from .access import COOKIE, Access
from .hub import Hub

_STATIC = Path(__file__).parent / "static"
_FILES = {
    "/uplot.js": ("uplot.js", "text/javascript"),
    "/uplot.css": ("uplot.css", "text/css"),
    "/uplot.LICENSE": ("uplot.LICENSE", "text/plain"),
}
_MOST_BODY = 1 << 20
_WRONG_TOKEN_S = 0.5
_COOKIE_S = 30 * 86_400
_logger = logging.getLogger("codecflow.page")


def _policy(page: str) -> str:
    """What the page may load: itself. Its script and style are named by their hashes, so that nothing else can run."""

    def hashes(tag: str) -> str:
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in texts)

    return (
        f"default-src 'none'; script-src 'self' {hashes('script')}; style-src 'self' {hashes('style')}; "
        "connect-src 'self'; media-src blob:; img-src blob: data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )


def build(access: Access, hub: Callable[[], Hub]) -> Starlette:
    """The application. `hub` is asked once requests come."""
    page = _Page(access, hub)
    return Starlette(
        routes=[
            Route("/", page.home),
            Route("/status", page.status),
            *(Route(path, page.file) for path in _FILES),
            Route("/login", page.login, methods=["POST"]),
            Route("/streams/{stream}/questions", page.questions, methods=["POST", "DELETE"]),
            WebSocketRoute("/ws", page.socket),
        ]
    )


class _Page:
    """What is answered to requests."""

    def __init__(self, access: Access, hub: Callable[[], Hub]) -> None:
        self._access, self._hub = access, hub
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
        """The token in a form: a cookie for who knows it."""
        if not self._access.is_called(request.headers.get("host", "")):
            return _error(421, "this page is not known by that name")
        found = re.search(rb"(?:^|&)token=([^&]*)", await _body(request) or b"")
        given = unquote_plus(found[1].decode("ascii", "replace")).strip() if found else ""
        if not self._access.knows(given):
            await asyncio.sleep(_WRONG_TOKEN_S)  # so that guessing takes long
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
        """A question added or removed."""
        if (no := self._refused(request, changes=True)) is not None:
            return no
        stream = request.path_params["stream"]
        try:
            if (body := await _body(request)) is None:
                return _error(413, "too long")
            make = _removal if request.method == "DELETE" else _addition
            change = make(self._hub().settings, stream, orjson.loads(body))
            asked = await asyncio.get_running_loop().run_in_executor(None, change)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return _error(400, "a question is expected: prompt, type, labels, id")
        except ConfigError as error:
            return _error(400, str(error))
        except CodecFlowError as error:
            return _error(502, str(error))
        return JSONResponse({"questions": len(asked.questions)})

    async def socket(self, ws: WebSocket) -> None:
        """One browser, for as long as it stays."""
        hub = self._hub()
        if self._refused(ws, changes=True) is not None or (viewer := hub.join()) is None:
            await ws.close(1008)  # before it is accepted: the browser is answered 403
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
        """Why a request is not served."""
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


def _addition(settings: KafkaSettings, stream: str, wanted: dict[str, Any]) -> Callable[[], Any]:
    kind = wanted.get("type", "text")
    question = subscriber.question(
        str(wanted["prompt"]).strip(),
        yes_no=kind == "yes-no",
        choices=[str(label) for label in wanted.get("labels", ())] if kind == "choice" else (),
        name=str(wanted["id"]) if wanted.get("id") else None,
    )
    return lambda: subscriber.ask(settings, stream, question)


def _removal(settings: KafkaSettings, stream: str, wanted: dict[str, Any]) -> Callable[[], Any]:
    name = str(wanted["id"])
    return lambda: subscriber.remove(settings, stream, name)


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status)


async def _body(request: Request) -> bytes | None:
    """A request's body; None where it is too long."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BODY:
            return None
    return body
