"""The table of faults that a transfer must survive, for hostile_server.py's script."""

from dataclasses import replace

from slipstream.delta.limits import RATE_FLOOR_BYTES_PER_S
from tests.installer.hostile_server import Answer, Fault


def cut_body(fraction: float) -> Fault:
    return lambda a: replace(a, cut_body=int(len(a.body) * fraction))


def cut_last_byte(a: Answer) -> Answer:
    return replace(a, cut_body=max(0, len(a.body) - 1))


def status(code: int, **headers: str) -> Fault:
    body = b"" if code == 304 else b"oops"
    return lambda _: Answer(code, {"Content-Length": str(len(body))}, body).with_headers(**headers)


def headers(**changes: str | None) -> Fault:
    return lambda a: a.with_headers(**changes)


def raw_body(code: int, body: bytes, **more: str) -> Fault:
    return lambda a: Answer(
        code,
        {"Content-Length": str(len(body)), **{k.replace("_", "-"): v for k, v in more.items()}},
        body,
    )


def shifted_range(a: Answer) -> Answer:
    return replace(a, status=206).with_headers(Content_Range=f"bytes 7-{6 + len(a.body)}/9999999")


PAGE = b"<html><body>Please log in</body></html>"

FAULTS: dict[str, Fault] = {
    "no answer, closed": lambda a: replace(a, cut=0),
    "no answer, reset": lambda a: replace(a, cut=0, reset=True),
    "cut in the status line": lambda a: replace(a, cut=10),
    "cut in the header": lambda a: replace(a, cut=40),
    "cut before the body": cut_body(0.0),
    "cut early": cut_body(0.1),
    "cut in the middle": cut_body(0.5),
    "reset in the middle": lambda a: replace(a, cut_body=len(a.body) // 2, reset=True),
    "cut at the last byte": cut_last_byte,
    "cut chunks in the middle": lambda a: replace(a, chunked=True, cut_body=len(a.body) // 2),
    "cut before the last chunk": lambda a: replace(a, chunked=True, cut_body=len(a.body) - 1),
    "stall before the header": lambda a: replace(a, drip=(1, 1e6), drip_head=True),
    "stall before the body": lambda a: replace(a, stall_body=0),
    "stall in the middle": lambda a: replace(a, stall_body=len(a.body) // 2),
    "stall at the last byte": lambda a: replace(a, stall_body=len(a.body) - 1),
    "trickled header": lambda a: replace(a, drip=(1, 29.0), drip_head=True),
    "trickled body": lambda a: replace(a, drip=(1, 29.0)),
    "below the rate floor": lambda a: replace(a, drip=(RATE_FLOOR_BYTES_PER_S * 4, 10.0)),
    "408": status(408),
    "416": status(416),
    "425": status(425),
    "429": status(429),
    "429 with seconds": status(429, Retry_After="7"),
    "500": status(500),
    "502": status(502),
    "503": status(503),
    "503 with seconds": status(503, Retry_After="3"),
    "503 with a date": status(503, Retry_After="Thu, 01 Jan 2026 00:01:00 GMT"),
    "503 with nonsense": status(503, Retry_After="soon"),
    "504": status(504),
    "204": lambda a: Answer(204, {}, b""),
    "proxy page": raw_body(200, PAGE, Content_Type="text/html; charset=utf-8"),
    "gzip": headers(Content_Encoding="gzip"),
    "unknown encoding": headers(Content_Encoding="x-proxy"),
    "wrong Content-Range": shifted_range,
    "garbled Content-Range": lambda a: replace(a, status=206).with_headers(Content_Range="bytes"),
    "206 without Content-Range": lambda a: replace(a, status=206).with_headers(Content_Range=None),
    "Content-Length one more": lambda a: replace(
        a.with_headers(Content_Length=str(len(a.body) + 1)), close=True
    ),
    "not HTTP": lambda a: replace(a, status=0, cut=5),
    "multipart": lambda a: replace(a, status=206).with_headers(
        Content_Range=None, Content_Type="multipart/byteranges; boundary=x"
    ),
    # These are odd but right: they must cost nothing but the connection.
    "chunked": lambda a: replace(a, chunked=True),
    "connection closed after": lambda a: replace(a, close=True),
}
