"""A server for the tests of the fetcher: serves bytes over HTTP, and misbehaves as it is told to."""

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802
        self.close_connection = True
        self.server.seen.append((self.path, dict(self.headers)))
        answer = self.server.answers.get(self.path.split("?")[0])
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client that has heard enough hangs up
            answer(self) if answer else self.reply(404)

    def log_message(self, *_):
        pass

    def reply(self, status: int, headers: dict | None = None, body: bytes = b"", length: int | None = -1) -> None:
        """Send an answer; `length` is what Content-Length says (-1: the truth, None: nothing)."""
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


class FileServer:
    """`answers`: path -> what to do; `seen`: (path, headers) of every request so far."""

    def __init__(self, http: ThreadingHTTPServer):
        self.url = f"http://127.0.0.1:{http.server_port}"
        self.answers: dict[str, Answer] = http.answers
        self.seen: list[tuple[str, dict]] = http.seen

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.seen]


@contextlib.contextmanager
def running() -> Iterator[FileServer]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.answers, http.seen = {}, []
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield FileServer(http)
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def file(content: bytes, ranges: bool = True, etag: str | None = "", send: int | None = None, **more: str) -> Answer:
    """A well-behaved file. etag: None sends none, "" one of the content. send: hang up after so many bytes."""

    def answer(handler: Handler) -> None:
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"' if etag == "" else etag
        headers = {**({"ETag": tag} if tag else {}), **more}
        start = _start(handler, tag) if ranges else 0
        if start >= len(content) > 0:
            handler.reply(416, {"Content-Range": f"bytes */{len(content)}"})
            return
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        handler.reply(206 if start else 200, headers, body[:send], len(body))

    return answer


def _start(handler: Handler, tag: str | None) -> int:
    asked = re.match(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    return int(asked[1]) if asked and handler.headers.get("If-Range") in (None, tag) else 0


def in_turn(*answers: Answer) -> Answer:
    """The first answer to the first request, and so on; the last one to all further ones."""
    left = list(answers)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def status(code: int, **headers: str) -> Answer:
    return lambda handler: handler.reply(code, headers)


def trickle(content: bytes, pause: float, length: int) -> Answer:
    """A byte of `length` at a time, never silent for long, until `content` is sent."""

    def answer(handler: Handler) -> None:
        handler.reply(200, {"ETag": '"slow"'}, b"", length)
        for byte in content:
            time.sleep(pause)
            handler.wfile.write(bytes([byte]))

    return answer
