"""Secrets: never in a log, compared in constant time, and worthless once they are taken back."""

import ast
import base64
import hashlib
import http.client
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import slipstream.server
from slipstream.server.app import BOARD, ENGINE
from slipstream.server.tokens import load_token

CHILD = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.DEBUG)
logging.getLogger("sqlalchemy").setLevel(logging.INFO)  # one lower, it shows rows as they are read
from slipstream.server.ddi.settings import DdiSettings
from slipstream.server.serve import serve
serve(Path(sys.argv[1]), listen="127.0.0.1:0", gateway_token_file=Path(sys.argv[2]),
      ddi=DdiSettings(product="gateway"), on_ready=lambda url: print(url, flush=True))
"""
PASSWORD = "correct horse battery staple"
MISTYPED = "correct horse battery stable"
WRONG = "a-token-that-was-mistyped-by-a-letter-0123"
PLAN = {
    "name": "one",
    "product": "gateway",
    "release": "2.0",
    "counter": 2,
    "phases": [{"percent": 100}],
}


class Caller:
    """Speaks with the server, and notes every secret that it sends or hears."""

    def __init__(self, port):
        self.port = port
        self.secrets = {}

    def note(self, name, secret):
        self.secrets[name] = secret
        return secret

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, None if body is None else json.dumps(body), said)
        response = connection.getresponse()
        raw = response.read()
        connection.close()
        return response.status, response.headers, json.loads(raw) if raw[:1] in b"{[" else raw


def scenario(caller, operator, gateway):
    """Everybody who has a secret uses it, rightly and wrongly."""
    root = {"Authorization": f"Bearer {operator}"}

    def made(path, body, **headers):
        status, _, answer = caller.ask("POST", f"/api/v1{path}", body, **(headers or root))
        assert status in (200, 201), answer
        return answer

    made("/users", {"name": "ada", "role": "admin", "password": PASSWORD})
    api = caller.note(
        "api token", made("/tokens", {"name": "t", "role": "admin", "user": "ada"})["secret"]
    )
    hook = made("/webhooks", {"url": "http://127.0.0.1:1/hook", "kinds": ["rollout"]})
    caller.note("webhook", hook["secret"])
    caller.note("webhook's key", base64.b64decode(hook["secret"].removeprefix("whsec_")).hex())
    first = caller.note(
        "device token", made("/devices", {"id": "d1", "product": "gateway"})["token"]
    )
    second = caller.note("rotated token", made("/devices/d1/token", {"overlap_s": 60})["token"])
    status, headers, me = caller.ask(
        "POST", "/api/v1/session", {"user": "ada", "password": PASSWORD}
    )
    assert status in (200, 201)
    cookie = headers["Set-Cookie"].partition(";")[0]
    caller.note("session", cookie.partition("=")[2])
    csrf = caller.note("csrf token", me["csrf"])
    assert caller.ask("POST", "/api/v1/session", {"user": "ada", "password": MISTYPED})[0] == 401
    made("/rollouts", PLAN, Cookie=cookie, X_CSRF_Token=csrf)
    poll = {"device": "d1", "product": "gateway", "release": "1.0", "counter": 1}
    for token, status in ((first, 200), (second, 200), (WRONG, 401)):
        assert caller.ask("POST", "/v1/poll", poll, Authorization=f"Bearer {token}")[0] == status
        path = "/DEFAULT/controller/v1/d1"
        assert caller.ask("GET", path, Authorization=f"TargetToken {token}")[0] == status
    assert (
        caller.ask("GET", "/DEFAULT/controller/v1/d2", Authorization=f"GatewayToken {gateway}")[0]
        == 200
    )
    basic = base64.b64encode(f"x:{operator}".encode()).decode()
    caller.note("operator's token as Basic", basic)
    assert caller.ask("GET", "/metrics", Authorization=f"Basic {basic}")[0] == 200
    assert caller.ask("GET", "/", Authorization=f"Basic {basic}")[0] in (200, 303)
    assert caller.ask("GET", "/api/v1/devices", Authorization=f"Bearer {api}")[0] == 200
    assert (
        caller.ask("POST", "/v1/report", {"key": "1"}, Authorization=f"Bearer {second}")[0] == 400
    )
    assert caller.ask("GET", f"/api/v1/devices?filter={WRONG}", **root)[0] == 400


def test_no_log_tells_a_secret(folder, tmp_path):
    """A whole scenario with every library at its most talkative."""
    folder.release("2.0", 2)
    folder.full("2.0", "rootfs", "2" * 64, b"x")
    folder.write()
    gateway_file = tmp_path / "gateway.token"
    gateway = load_token(gateway_file)
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                CHILD,
                str(folder.public),
                str(gateway_file),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
        ) as process,
    ):
        try:
            found = re.fullmatch(rb"http://127\.0\.0\.1:(\d+)\n", process.stdout.readline())
            assert found is not None
            caller = Caller(int(found[1]))
            operator = load_token(folder.public.parent / "server" / "operator.token")
            caller.note("operator's token", operator)
            caller.note("gateway token", gateway)
            caller.secrets |= {"password": PASSWORD, "mistyped": MISTYPED, "wrong": WRONG}
            scenario(caller, operator, gateway)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    text = (tmp_path / "log").read_text()
    assert "SELECT" in text  # it was talkative
    assert "rollout.create" in text
    for name, secret in caller.secrets.items():
        assert secret not in text, name
        digest = hashlib.sha256(secret.encode())
        assert digest.hexdigest() not in text, f"digest of {name}"
        assert repr(digest.digest())[2:-1] not in text, f"digest of {name}"
    assert "$argon2" not in text


# Comparisons that name a secret, and why none of them has to take the same time for all values.
REVIEWED = {
    # What was sent is hashed first, and the database looks for the digest: how long that takes
    # says something of SHA-256 of a guess.
    "store/devices.py": {"devices.c.token_digest == digest", "devices.c.old_digest == digest"},
    "store/users.py": {
        "sessions.c.digest == digest",
        "sessions.c.digest != keep",
        "api_tokens.c.digest == digest",
        # Numbers and names of tokens, not tokens.
        "api_tokens.c.id == token",
        "api_tokens.c.user == user",
        "api_tokens.c.user == users.c.name",
        "api_tokens.c.role == Role.ADMIN.value",
    },
    "access.py": {"identity.token != token"},  # the numbers of tokens
    "store/delta_jobs.py": {"delta_jobs.c.token == job.token"},  # a fencing token is a number
    "rollout/rsql.py": {"token.type == 'QUOTED'", "error.token.type == '$END'"},  # of a language
    # The audit log's chain, whose digests everybody who may read it sees.
    "chain.py": {
        "(self.rows, self.digest) != (rows, digest)",
        "row.previous != self.digest",
        "seal(row.previous, row.entry).digest != row.digest",
    },
    # Digests of public files, and of images on the build machine.
    "pages/desk.py": {"request.headers.get('If-None-Match') == f'\"{digest}\"'"},
    "account.py": {"got != digest.hex", "other.target_digest != index.target_digest"},
    "opening.py": {"_digest_of(space, one.places) not in known"},
    "partial.py": {"self._frames.read(DIGEST_BYTES) != key.raw"},
    "patch.py": {"Digest(state.digest()) != index.source_digest", "made != index.target_digest"},
}
SECRET = re.compile(
    r"token|secret|passw|digest|csrf|cookie|credential|hmac|authorization", re.IGNORECASE
)


def test_secrets_are_compared_in_constant_time():
    """Every == on something that is named like a secret has been looked at; others use hmac."""
    root = Path(slipstream.server.__path__[0])
    found = {}
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            equals = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
            if isinstance(node, ast.Compare) and any(isinstance(one, equals) for one in node.ops):
                text = ast.unparse(node)
                if SECRET.search(text):
                    found.setdefault(str(path.relative_to(root)), set()).add(text)
    assert found == REVIEWED


@pytest.mark.parametrize("end", ["revoked", "rotated"])
def test_a_token_that_was_taken_back_opens_no_door(with_fleet, folder, end):
    folder.release("2.0", 2)
    folder.artifact("2.0", "os", "os.swu", b"x" * 10)
    folder.write()

    async def test(fleet):
        bearer = await fleet.add("d1")
        token = bearer["Authorization"].removeprefix("Bearer ")
        basic = base64.b64encode(f"d1:{token}".encode()).decode()
        assert (await fleet.api("POST", "/rollouts", PLAN))[0] == 201
        await fleet.client.app[ENGINE].tick(1.0)
        await fleet.client.app[BOARD].refresh()
        target = {"Authorization": f"TargetToken {token}"}
        ddi = "/DEFAULT/controller/v1/d1"
        lock = {"fleet-lock-protocol": "true", "Authorization": f"Basic {basic}"}
        params = {"client_params": {"id": "d1", "group": "all"}}
        report = {"key": "k", "device": "d1", "kind": "progress"}
        doors = (
            ("POST", "/v1/poll", {"device": "d1", "product": "gateway"}, bearer),
            ("POST", "/v1/report", report, bearer),
            ("POST", "/v1/pre-reboot", params, lock),
            ("POST", "/v1/steady-state", params, lock),
            ("GET", "/v1/wake", None, bearer),
            ("GET", ddi, None, target),
            ("PUT", f"{ddi}/configData", {"data": {"a": "b"}}, target),
            ("GET", f"{ddi}/deploymentBase/1", None, target),
            ("GET", f"{ddi}/softwaremodules/2/artifacts", None, target),
            ("GET", f"{ddi}/softwaremodules/2/artifacts/os.swu", None, target),
        )

        async def try_all():
            found = []
            for method, path, body, headers in doors:
                answer = await fleet.client.request(method, path, json=body, headers=headers)
                found.append((path, answer.status))
                answer.close()
            return found

        assert {status for _, status in await try_all()} == {200}
        if end == "revoked":
            assert (await fleet.api("DELETE", "/devices/d1/token"))[0] == 204
        else:
            assert (await fleet.api("POST", "/devices/d1/token", {"overlap_s": 0}))[0] == 200
        assert {status for _, status in await try_all()} == {401}, await try_all()

    with_fleet(test)
