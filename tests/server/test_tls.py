"""TLS from files: a real server process, old clients, a renewed certificate, pairs that do not fit."""

import http.client
import os
import random
import signal
import socket
import ssl
import warnings

import pytest

from slipstream.delta.errors import UsageError
from slipstream.server.tls import Certificate
from tests.server.certificates import write_certificate
from tests.server.test_serve import running

DIGEST = "e" * 64
BLOB = random.Random(4).randbytes(3 << 20)


def connect(port, files, newest=ssl.TLSVersion.MAXIMUM_SUPPORTED):
    context = ssl.create_default_context(cafile=files.certificate)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what is older than TLS 1.2
        context.minimum_version = min(newest, ssl.TLSVersion.TLSv1)
        context.maximum_version = newest
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        return context.wrap_socket(raw, server_hostname="127.0.0.1")


def subject(port, files):
    with connect(port, files) as connection:
        return dict(one[0] for one in connection.getpeercert()["subject"])["commonName"]


def test_tls_by_a_real_process(folder, tmp_path):
    (folder.public / "blobs" / f"{DIGEST}.payload").write_bytes(BLOB)
    files = write_certificate(tmp_path)
    with running(folder.public, tls=files) as (process, port):
        context = ssl.create_default_context(cafile=files.certificate)
        client = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
        client.request("GET", "/healthz")
        answer = client.getresponse()
        assert answer.status == 200
        assert answer.read()
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
        client.request("GET", f"/blobs/{DIGEST}.payload", headers={"Range": "bytes=5-2000004"})
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (206, BLOB[5:2000005])
        client.close()
        for newest in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                connect(port, files, newest)
        with connect(port, files, ssl.TLSVersion.TLSv1_2) as connection:
            assert connection.version() == "TLSv1.2"
        assert subject(port, files) == "one"
        # Renewed, as an ACME client does it.
        files = write_certificate(tmp_path, "two")
        process.send_signal(signal.SIGHUP)
        while b"certificate read" not in process.stderr.readline():
            pass
        assert subject(port, files) == "two"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def test_a_pair_that_does_not_fit(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    files, other = write_certificate(tmp_path / "a"), write_certificate(tmp_path / "b")
    certificate = Certificate(files)
    os.replace(other.key, files.key)
    with pytest.raises(UsageError, match=r"belong together.*(?i:mismatch)"):
        certificate.reload()
    certificate.try_to_reload()  # told in the log, and the old pair still serves
    server, client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = certificate.context.wrap_bio(client, server, server_side=True)
    theirs = ssl.create_default_context(cafile=files.certificate)
    theirs.check_hostname = False
    other_end = theirs.wrap_bio(server, client)
    for _ in range(3):
        for end in (other_end, ours):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert other_end.version() is not None
    files.key.chmod(0o644)
    with pytest.raises(UsageError, match="everybody can read"):
        Certificate(files)
    files.key.unlink()
    with pytest.raises(UsageError, match="cannot read"):
        Certificate(files)
