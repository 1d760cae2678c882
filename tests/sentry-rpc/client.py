"""A client of Sentry's RPC that shares nothing with the service: the standard library only.

    python3 client.py HOST:PORT SECRET METHOD [ARGS]     one call, its value printed as JSON
It signs as Sentry does: HMAC-SHA256 over `{path}:{body}`, in hexadecimal, in
`Authorization: Rpcsignature rpc0:…`.
"""

import hashlib
import hmac
import http.client
import json
import sys

PREFIX = "/api/0/internal/rpc/identity"


def sign(secret, path, body):
    """The signature of this path and body."""
    digest = hmac.new(secret.encode(), path.encode() + b":" + body, hashlib.sha256)
    return "rpc0:" + digest.hexdigest()


class Answer:
    """A status, the headers, and the body as JSON."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode()
        self.body = json.loads(self.text) if self.text else None


def post(address, path, body, authorization):
    """A POST with exactly this body and header."""
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "sentry-rpc/from-test"}
    if authorization is not None:
        headers["Authorization"] = authorization
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("POST", path, body=body, headers=headers)
        return Answer(connection.getresponse())
    finally:
        connection.close()


class IdentityService:
    """Sentry's identity service, far away."""

    def __init__(self, address, secret):
        self.address = address
        self.secret = secret

    def send(self, method, arguments, meta=None):
        """A signed call, whatever is answered."""
        path = f"{PREFIX}/{method}/"
        body = json.dumps({"meta": meta or {}, "args": arguments}).encode()
        return post(self.address, path, body, "Rpcsignature " + sign(self.secret, path, body))

    def __getattr__(self, method):
        def call(**arguments):
            answer = self.send(method, arguments)
            assert answer.status == 200, f"{method}({arguments}): {answer.status} {answer.text}"
            assert set(answer.body) == {"meta", "value"}, answer.text
            assert answer.body["meta"] == {}, answer.text
            return answer.body["value"]

        return call


if __name__ == "__main__":
    _, where, key, name = sys.argv[:4]
    given = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
    print(json.dumps(getattr(IdentityService(where, key), name)(**given), indent=2))
