"""The fetcher against servers that others wrote: http.server without ranges, nginx, and TLS."""

import asyncio
import datetime as dt
import random
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import Unavailable, UsageError
from slipstream.installer.fetch import HttpFetcher, NotFound
from slipstream.installer.frames import FrameSource
from slipstream.installer.spool import Spool
from tests.installer.test_frames import make_payload
from tests.installer.virtual_time import LoopClock
from tests.web_servers import NGINX, nginx_server, python_server

PAYLOAD = make_payload([50_000, 0, 30_000, 100, 200_000, 7])
SMALL = random.Random(3).randbytes(70_000)


@pytest.fixture
def public(tmp_path: Path) -> Path:
    folder = tmp_path / "public"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "x.payload").write_bytes(PAYLOAD.raw)
    (folder / "metadata").mkdir()
    (folder / "metadata" / "timestamp.json").write_bytes(SMALL)
    return folder


async def take_all(url: str, folder: Path, wanted: list[int]) -> HttpFetcher:
    async with HttpFetcher(url, clock=LoopClock()) as fetcher:
        assert await fetcher.fetch("metadata/timestamp.json", size_max=100_000) == SMALL
        with pytest.raises(NotFound):
            await fetcher.fetch("metadata/2.root.json", size_max=100_000)
        spool = Spool(folder / "spool", PAYLOAD.index.digest)
        async with FrameSource(fetcher, "blobs/x.payload", PAYLOAD.index, wanted, spool) as source:
            got = [(number, encoded) async for number, encoded in source]
        assert got == PAYLOAD.wanted(wanted)
        spool.discard()
        return fetcher


def test_python_http_server(public: Path, tmp_path: Path) -> None:
    with python_server(public) as url:
        fetcher = asyncio.run(take_all(url, tmp_path, [0, 1, 4, 5]))
        # Small file, 404, and one pass over the payload, though two ranges were wanted.
        assert fetcher.counters.requests == 3
        wanted = 50_000 + 200_000 + 7
        index = len(PAYLOAD.index.raw)
        assert fetcher.counters.bytes_received == len(SMALL) + index + wanted + 30_100
        assert fetcher.counters.bytes_skipped >= index


def test_python_http_server_gap_that_is_no_neighbour(public: Path, tmp_path: Path) -> None:
    with python_server(public) as url:
        fetcher = asyncio.run(take_all(url, tmp_path, [3, 5]))
        assert fetcher.counters.requests == 3  # the second range read on in the first's response
        assert fetcher.counters.bytes_skipped == len(PAYLOAD.index.raw) + 80_000 + 200_000


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_nginx(public: Path, tmp_path: Path) -> None:
    with nginx_server(public) as url:
        fetcher = asyncio.run(take_all(url, tmp_path, [0, 1, 3, 5]))
        assert fetcher.counters.requests == 2 + 3
        assert fetcher.counters.bytes_skipped == 0
        assert fetcher.counters.bytes_received == len(SMALL) + 50_000 + 100 + 7
        fetcher = asyncio.run(take_all(f"{url}/moved", tmp_path, [0, 5]))
        assert fetcher.counters.requests == 2 * 4
        fetcher = asyncio.run(take_all(f"{url}/once/", tmp_path, [0, 5]))
        assert fetcher.counters.requests == 3


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_nginx_file_replaced_between_two_requests(public: Path) -> None:
    """Publishing over a name is against the rules; a device must notice it all the same."""
    path = public / "metadata" / "timestamp.json"

    async def check(url: str) -> None:
        async with HttpFetcher(url, clock=LoopClock()) as fetcher:
            stream = fetcher.stream("metadata/timestamp.json", ByteRange(0, 70_000))
            first = await anext(stream)
            await stream.aclose()
            path.write_bytes(bytes(70_001))
            rest = fetcher.stream("metadata/timestamp.json", ByteRange(len(first), 100))
            assert [p async for p in rest] == [bytes(100)]
            assert await fetcher.fetch("metadata/timestamp.json", size_max=80_000) == bytes(70_001)
            with pytest.raises(Unavailable, match="large"):
                await fetcher.fetch("metadata/timestamp.json", size_max=70_000)

    with nginx_server(public) as url:
        asyncio.run(check(url))


# --- TLS


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain = folder / f"{name}.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = folder / f"{name}.key"
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return chain, secret


def test_tls_is_verified(tmp_path: Path) -> None:
    chain, secret = make_certificate(tmp_path, "localhost")
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(body)
        await writer.drain()
        writer.close()

    async def check() -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(chain, secret)
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        async with server:
            for host, ca_file, good in (
                ("localhost", chain, True),
                ("localhost", None, False),  # nobody we know signed it
                ("127.0.0.1", chain, False),  # another name
            ):
                url = f"https://{host}:{port}"
                async with HttpFetcher(url, clock=LoopClock(), ca_file=ca_file) as fetcher:
                    if good:
                        assert await fetcher.fetch("f", size_max=9) == b"ok"
                    else:
                        with pytest.raises(Unavailable, match="certificate"):
                            await fetcher.fetch("f", size_max=9)
                    assert fetcher.counters.retries == 0

    asyncio.run(check())


def test_ca_file_that_is_none(tmp_path: Path) -> None:
    async def check(path: Path) -> None:
        with pytest.raises(UsageError, match="CA file"):
            HttpFetcher("https://localhost", clock=LoopClock(), ca_file=path)

    (tmp_path / "bad.pem").write_text("no certificate")
    for path in (tmp_path / "bad.pem", tmp_path / "none.pem"):
        asyncio.run(check(path))
