"""A server on loopback that speaks like OpenAI, Google and Voyage, and misbehaves on demand."""

import base64
import json
import re
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = dict[str, Any]
GEMINI = re.compile(r"/v1(?:beta)?/models/([^:]+):(batchEmbedContents|embedContent)")


@dataclass(kw_only=True)
class Fault:
    """How one request is answered instead of properly."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay_s: float = 0.0
    cut: bool = False
    change: Callable[[Answer], Answer] | None = None


@dataclass(kw_only=True)
class Seen:
    """A request as it came in."""

    path: str
    headers: dict[str, str]
    body: Answer
    at: float


class LoopbackServer:
    """Serves functions over HTTP on a free port, from `with` on until its end.

    Args:
        chat: From the body of a request to a text, or to a text and log-probabilities.
        embed: From texts and the width asked for to vectors.
        fault: From the number of a request, counted from 0, and its body to a fault or None.
        service_s: How long each request takes.
        counts_tokens: Whether responses tell usage.
        headers: Headers of each proper response.
    """

    def __init__(
        self,
        *,
        chat: Callable[[Answer], Any] | None = None,
        embed: Callable[[list[str], int | None], list[list[float]]] | None = None,
        fault: Callable[[int, Answer], Fault | None] | None = None,
        service_s: float = 0.0,
        counts_tokens: bool = True,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.chat = chat or (lambda body: f"you said {last_text(body)}")
        self.embed = embed or spread
        self.fault = fault or (lambda number, body: None)
        self.service_s = service_s
        self.counts_tokens = counts_tokens
        self.headers = headers or {}
        self.seen: list[Seen] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    def __enter__(self) -> "LoopbackServer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def enter(self, seen: Seen) -> int:
        with self._lock:
            self.seen.append(seen)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            return len(self.seen) - 1

    def leave(self) -> None:
        with self._lock:
            self.in_flight -= 1

    def answer(self, path: str, body: Answer) -> Answer:
        if path == "/v1/chat/completions":
            return self._complete(body)
        if path == "/v1/embeddings":
            return self._embed_openai(body)
        match = GEMINI.fullmatch(path)
        if match:
            return self._embed_gemini(body)
        raise LookupError(path)

    def _complete(self, body: Answer) -> Answer:
        held = self.chat(body)
        text, logprobs = held if isinstance(held, tuple) else (held, None)
        choice: Answer = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": text},
        }
        if logprobs is not None and body.get("logprobs"):
            top = [{"token": t, "logprob": v, "bytes": None} for t, v in logprobs]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}], "refusal": None}
        return {
            "id": "chat-1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
            **self._usage(sum(len(m["content"]) for m in body["messages"]), len(text or "")),
        }

    def _embed_openai(self, body: Answer) -> Answer:
        given = body["input"]
        texts = [given] if isinstance(given, str) else given
        width = body.get("dimensions") or body.get("output_dimension")
        vectors = self.embed(texts, width)
        as_bytes = body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": i, "embedding": _pack(v) if as_bytes else v}
            for i, v in enumerate(vectors)
        ]
        usage = self._usage(sum(map(len, texts)), 0)
        # In reverse, as the order is told by the index; but Voyage's client does not look at that.
        order = 1 if "output_dimension" in body else -1
        return {"object": "list", "model": body["model"], "data": data[::order], **usage}

    def _embed_gemini(self, body: Answer) -> Answer:
        requests = body.get("requests", [body])
        texts = ["".join(p["text"] for p in r["content"]["parts"]) for r in requests]
        width = requests[0].get("outputDimensionality")
        return {"embeddings": [{"values": v} for v in self.embed(texts, width)]}

    def _usage(self, sent: int, made: int) -> Answer:
        if not self.counts_tokens:
            return {}
        counts = {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made}
        return {"usage": counts}


def last_text(body: Answer) -> str:
    """The text of a conversation's last message."""
    return body["messages"][-1]["content"]


def spread(texts: list[str], width: int | None) -> list[list[float]]:
    """Vectors that tell texts apart."""
    return [
        [float((hash_text(text) >> (3 * i)) % 17) + 1 for i in range(width or 8)] for text in texts
    ]


def hash_text(text: str) -> int:
    value = 1469598103934665603
    for byte in text.encode():
        value = (value ^ byte) * 1099511628211 % 2**64
    return value


def _pack(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512
    owner: LoopbackServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        owner = self.server.owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        path = self.path.partition("?")[0]
        number = owner.enter(Seen(path=path, headers=headers, body=body, at=time.monotonic()))
        try:
            fault = owner.fault(number, body) or Fault(headers=owner.headers)
            time.sleep(owner.service_s + fault.delay_s)
            self._respond(fault, path, body)
        finally:
            owner.leave()

    def _respond(self, fault: Fault, path: str, body: Answer) -> None:
        status, content = fault.status, fault.body
        if content is None and status == 200:
            try:
                answer = self.server.owner.answer(path, body)
                content = json.dumps(fault.change(answer) if fault.change else answer).encode()
            except LookupError:
                status = 404
        if content is None:
            content = json.dumps({"error": {"message": f"status {status}"}}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault.cut else content)
        self.wfile.flush()
        if fault.cut:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Servers of tests are silent."""
