"""Where a server answers, as options name it: http(s)://HOST[:PORT][/PATH]."""

from urllib.parse import urlsplit

from slipstream.delta.errors import UsageError


def check_origin(text: str, option: str) -> str:
    """The same text; UsageError unless it is a URL that a path can be added to."""
    try:
        parts = urlsplit(text)
        named = bool(parts.hostname) and parts.port != 0  # a port that is none raises
    except ValueError:
        named = False
    else:
        named = named and parts.scheme in ("http", "https") and not (parts.query or parts.fragment)
    if not named or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(
            "not the address of a server",
            where=option,
            expected="http(s)://HOST, HOST:PORT, or either and a path",
            got=ascii(text),
        )
    return text
