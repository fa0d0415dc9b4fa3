"""Serves the browser page to this machine only."""

import json
import re
import webbrowser
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from qmgen.dataset import Dataset
from qmgen.errors import InputError, QmgenError
from qmgen.inspection.answers import Answers

HOST = "127.0.0.1"
# All that is served from files; a path is looked up here and nowhere else.
_FILES = {
    "/": ("pages/browse.html", "text/html; charset=utf-8"),
    "/theme.css": ("pages/theme.css", "text/css; charset=utf-8"),
    "/browse.css": ("pages/browse.css", "text/css; charset=utf-8"),
    "/browse.js": ("pages/browse.js", "text/javascript; charset=utf-8"),
    "/3Dmol-min.js": ("3dmol/3Dmol-min.js", "text/javascript; charset=utf-8"),
}
_ONE = re.compile(r"/api/(molecules|conformers)/(\d{1,15})")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_MAX_TARGET_LENGTH = 4000
_IDLE_SECONDS = 30.0


def browse(
    dataset: Dataset,
    *,
    port: int = 0,
    open_page: bool = True,
    announce: Callable[[str], object] = lambda address: None,
) -> None:
    """Serve the page until interrupted.

    Parameters
    ----------
    dataset : Dataset
        What to show.
    port : int
        Port on 127.0.0.1; 0 takes a free one.
    open_page : bool
        Show the page in the user's web browser.
    announce : callable
        Is given the page's address once it can be opened.

    Raises
    ------
    InputError
        The port can't be used.
    """
    with make_server(dataset, port) as server:
        address = f"http://{HOST}:{server.server_port}/"
        announce(address)
        if open_page:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            # The way to end it.
            return


def make_server(dataset: Dataset, port: int = 0) -> ThreadingHTTPServer:
    """Bind the server of `browse`, which then waits for ``serve_forever``.

    Raises
    ------
    InputError
        The port can't be used.
    """
    answers = Answers(dataset)
    try:
        return _Server(answers, port)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"port {port} of {HOST} can't be used ({error}); choose another with --port"
        ) from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answers: Answers, port: int) -> None:
        super().__init__((HOST, port), _Handler)
        self.answers = answers


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    server_version = "qmgen"
    sys_version = ""

    def do_GET(self) -> None:
        if len(self.path) > _MAX_TARGET_LENGTH:
            return self._send_error(HTTPStatus.REQUEST_URI_TOO_LONG, "the request is too long")
        target = urlsplit(self.path)
        if reason := self._foreign(target.path):
            return self._send_error(HTTPStatus.FORBIDDEN, reason)
        if target.path in _FILES:
            name, kind = _FILES[target.path]
            content = (resources.files("qmgen.inspection") / name).read_bytes()
            return self._send(HTTPStatus.OK, kind, content)
        try:
            answer = self._answer(target.path, dict(parse_qsl(target.query)))
        except IndexError as error:
            return self._send_error(HTTPStatus.NOT_FOUND, str(error))
        except InputError as error:
            return self._send_error(HTTPStatus.BAD_REQUEST, str(error))
        except QmgenError as error:
            return self._send_error(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        return self._send_json(HTTPStatus.OK, answer)

    def _answer(self, path: str, asked: dict[str, str]) -> Any:
        if path == "/api/dataset":
            return self.server.answers.about()
        if path == "/api/molecules":
            return self.server.answers.molecules(asked)
        if found := _ONE.fullmatch(path):
            number = int(found[2])
            if found[1] == "molecules":
                return self.server.answers.molecule(number)
            return self.server.answers.conformer(number)
        raise IndexError("there is nothing here")

    def _foreign(self, path: str) -> str:
        """Say why a request doesn't come from the page itself; empty if it does.

        A foreign site may point a name of its own at 127.0.0.1 (DNS rebinding), which the Host
        header shows, or have its own pages ask, which Origin and Sec-Fetch-Site show.
        """
        hosts = {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}
        if self.headers.get("Host", "").lower() not in hosts:
            return f"this page is served as http://{HOST}:{self.server.server_port}/ only"
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in hosts}:
            return "requests of other sites are refused"
        # A link that leads here is harmless.
        if path != "/" and self.headers.get("Sec-Fetch-Site", "none") not in (
            "same-origin",
            "none",
        ):
            return "requests of other sites are refused"
        return ""

    def _send_error(self, status: HTTPStatus, message: str) -> None:
        self._send_json(status, {"error": message})

    def _send_json(self, status: HTTPStatus, content: Any) -> None:
        text = json.dumps(content, allow_nan=False).encode()
        self._send(status, "application/json", text)

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        try:
            self.end_headers()
            self.wfile.write(content)
        except ConnectionError:
            # The page has gone, so nobody waits for this.
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the terminal for the address."""
