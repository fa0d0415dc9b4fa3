"""The server answers its own page and nobody else."""

import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from http.server import ThreadingHTTPServer

import pytest

from qmgen.dataset import Dataset
from qmgen.inspection.server import HOST, browse, make_server
from tests.inspection.conftest import fails


@pytest.fixture(scope="module")
def server(dataset: Dataset) -> Iterator[ThreadingHTTPServer]:
    with make_server(dataset) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(
    server: ThreadingHTTPServer, path: str, method: str = "GET", **headers: str
) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection(HOST, server.server_port, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_host="Host" in named)
        for name, value in named.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def test_listens_on_this_machine_only(server: ThreadingHTTPServer) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/", "text/html", b"<!doctype html>"),
        ("/?query=C", "text/html", b"<!doctype html>"),
        ("/theme.css", "text/css", b"prefers-color-scheme"),
        ("/browse.css", "text/css", b"dialog"),
        ("/browse.js", "text/javascript", b"use strict"),
        ("/3Dmol-min.js", "text/javascript", b"3Dmol"),
        ("/api/dataset", "application/json", b"some molecules.zarr"),
        ("/api/molecules?query=c1ccccc1&sort=gap", "application/json", b"c1ccccc1"),
        ("/api/molecules/2", "application/json", b"CC(=O)O"),
        ("/api/conformers/0", "application/json", b"xyz"),
    ],
)
def test_serves(server: ThreadingHTTPServer, path: str, kind: str, words: bytes) -> None:
    response, content = ask(server, path)
    assert response.status == 200
    assert (response.getheader("Content-Type") or "").startswith(kind)
    assert words in content
    policy = response.getheader("Content-Security-Policy") or ""
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert response.getheader("X-Content-Type-Options") == "nosniff"
    assert response.getheader("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/pages/../server.py",
        "/%2e%2e/server.py",
        "/..%2fserver.py",
        "//etc/passwd",
        "/pages/browse.html",
        "/server.py",
        "/api/molecules/../dataset",
        "/api/molecules/-1",
        "/api/molecules/99",
        "/api/conformers/100000000000000",
        "/api/conformers/99999999999999999999999",
        "/api/nothing",
    ],
)
def test_there_is_nothing_else(server: ThreadingHTTPServer, path: str) -> None:
    response, content = ask(server, path)
    assert response.status == 404
    assert set(json.loads(content)) == {"error"}


def test_foreign_requests_are_refused(server: ThreadingHTTPServer) -> None:
    own = f"127.0.0.1:{server.server_port}"
    bad: list[dict[str, str]] = [
        {"Host": "evil.example"},
        {"Host": f"evil.example:{server.server_port}"},
        {"Host": "127.0.0.1"},
        {"Host": f"127.0.0.1:{server.server_port + 1}"},
        {"Host": own, "Origin": "http://evil.example"},
        {"Host": own, "Origin": "null"},
        {"Host": own, "Sec-Fetch-Site": "cross-site"},
        {"Host": own, "Sec-Fetch-Site": "same-site"},
    ]
    for headers in bad:
        response, content = ask(server, "/api/dataset", **headers)
        assert response.status == 403, headers
        assert b"some molecules" not in content
    for headers in (
        {"Host": own, "Origin": f"http://{own}", "Sec-Fetch-Site": "same-origin"},
        {"Host": f"localhost:{server.server_port}"},
    ):
        assert ask(server, "/api/dataset", **headers)[0].status == 200
    # Following a link to the page is no attack.
    assert ask(server, "/", **{"Sec-Fetch-Site": "cross-site"})[0].status == 200


def test_bad_questions_have_an_answer(server: ThreadingHTTPServer) -> None:
    response, content = ask(server, "/api/molecules?query=c1ccc")
    assert response.status == 400
    assert "unclosed ring" in json.loads(content)["error"]
    assert ask(server, "/api/dataset", "POST")[0].status == 501
    assert ask(server, "/" + "x" * 5000)[0].status == 414
    # It is still there.
    assert ask(server, "/api/dataset")[0].status == 200


def test_a_busy_port_is_an_error(dataset: Dataset) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = fails(lambda: browse(dataset, port=port, open_page=False))
    assert f"port {port} of 127.0.0.1 can't be used" in message
    assert "choose another with --port" in message
