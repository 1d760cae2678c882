"""Checks a running service against Sentry's RPC form, from the outside.

Reads on standard input what was prepared: the service's address, its shared secrets, and the rows
that are there. `tests/e2e/sentry_rpc.rs` prepares it and runs this.
"""

import hashlib
import hmac
import json
import sys
import unittest

from client import PREFIX, IdentityService, post, sign

PLAN = json.load(sys.stdin)
ADDRESS = PLAN["address"]
SECRET, NEXT = PLAN["secrets"]
TOKENS = {"access_token", "refresh_token", "id_token", "token_type", "expires"}

service = IdentityService(ADDRESS, SECRET)


class Signatures(unittest.TestCase):
    PATH = f"{PREFIX}/get_provider/"
    BODY = json.dumps({"meta": {}, "args": {"provider_id": PLAN["team"]}}).encode()

    def status(self, authorization, path=PATH, body=BODY):
        answer = post(ADDRESS, path, body, authorization)
        if answer.status != 200:
            self.assertIn("detail", answer.body)
            for secret in PLAN["secrets"]:
                self.assertNotIn(secret, answer.text)
        return answer.status

    def test_each_shared_secret_is_good_while_they_are_changed(self):
        for secret in (SECRET, NEXT):
            signature = sign(secret, self.PATH, self.BODY)
            self.assertEqual(self.status("Rpcsignature " + signature), 200)
            self.assertEqual(self.status("rpcsignature " + signature), 200)
            found = IdentityService(ADDRESS, secret).get_provider(provider_id=PLAN["team"])
            self.assertEqual(found["id"], PLAN["team"])

    def test_unsigned_is_403(self):
        signature = sign(SECRET, self.PATH, self.BODY)
        for header in (None, "", "Rpcsignature", signature, "Bearer " + signature, "Bearer " + PLAN["api_key"]):
            self.assertEqual(self.status(header), 403, header)

    def test_wrongly_signed_is_401(self):
        good = sign(SECRET, self.PATH, self.BODY)
        digest = good.removeprefix("rpc0:")
        without_path = hmac.new(SECRET.encode(), self.BODY, hashlib.sha256).hexdigest()
        wrong = {
            "retired secret": sign(PLAN["retired"], self.PATH, self.BODY),
            "empty secret": sign("", self.PATH, self.BODY),
            "changed path": sign(SECRET, f"{PREFIX}/get_identity/", self.BODY),
            "path without its last slash": sign(SECRET, self.PATH[:-1], self.BODY),
            "changed body": sign(SECRET, self.PATH, self.BODY + b" "),
            "body alone": "rpc0:" + without_path,
            "another version": "rpc1:" + digest,
            "no version": digest,
            "cut off": good[:-1],
            "too long": good + "0",
            "not hexadecimal": "rpc0:" + "g" * 64,
            "trash": "trash",
            "two words": good + " x",
        }
        for what, signature in wrong.items():
            self.assertEqual(self.status("Rpcsignature " + signature), 401, what)

    def test_the_body_that_arrives_is_the_one_that_was_signed(self):
        signature = "Rpcsignature " + sign(SECRET, self.PATH, self.BODY)
        for body in (b"", self.BODY.replace(b"1", b"2") + b" ", self.BODY[:-1]):
            self.assertEqual(self.status(signature, body=body), 401, body)
        elsewhere = f"{PREFIX}/get_identity/"
        self.assertEqual(self.status(signature, path=elsewhere), 401)


class BadCalls(unittest.TestCase):
    def signed(self, method, body):
        path = f"{PREFIX}/{method}/"
        return post(ADDRESS, path, body, "Rpcsignature " + sign(SECRET, path, body))

    def test_an_unknown_method_is_404(self):
        for method in ("not_a_method", "link_identity", "__class__"):
            self.assertEqual(service.send(method, {}).status, 404, method)

    def test_no_arguments_are_400(self):
        for body in (b"", b"{}", b"[]", b"no json", b'{"meta": {}}', b'{"args": []}', b'{"args": null}'):
            for method in ("get_provider", "not_a_method"):
                answer = self.signed(method, body)
                self.assertEqual(answer.status, 400, body)
                self.assertIn("detail", answer.body)

    def test_bad_arguments_are_400_and_nothing_is_echoed(self):
        for method, arguments in [
            ("get_provider", {"provider_id": "canary"}),
            ("get_identities", {}),
            ("get_identities", {"filter": ["canary"]}),
            ("get_identities", {"filter": {"id": "canary"}}),
            ("get_identity", {"filter": {"provider_type": {"canary": 1}}}),
            ("get_user_identities_by_provider_type", {"user_id": 7}),
            ("get_user_identities_by_provider_type", {"provider_type": "oidc"}),
            ("get_org_user_identities_by_provider_type", {"user_id": 7, "provider_type": "oidc"}),
            ("delete_identities", {"user_id": 7}),
            ("delete_identities", {"organization_id": 1}),
            ("update_data", {"identity_id": PLAN["first"]}),
            ("update_data", {"identity_id": PLAN["first"], "data": "canary"}),
        ]:
            answer = service.send(method, arguments)
            self.assertEqual(answer.status, 400, (method, arguments))
            self.assertNotIn("canary", answer.text)

    def test_a_filter_that_filters_nothing_is_400(self):
        for method in ("get_identities", "get_identity"):
            for nothing in ({}, {"status": 1}):
                self.assertEqual(service.send(method, {"filter": nothing}).status, 400)

    def test_a_body_beyond_the_limit_is_refused(self):
        body = json.dumps({"args": {"x": "x" * 1024 * 1024}}).encode()
        self.assertEqual(self.signed("get_provider", body).status, 413)


class Methods(unittest.TestCase):
    def test_get_provider(self):
        team = {"id": PLAN["team"], "type": "oidc", "external_id": "T1"}
        alone = {"id": PLAN["alone"], "type": "oidc", "external_id": None}
        self.assertEqual(service.get_provider(provider_id=PLAN["team"]), team)
        by_id_alone = service.get_provider(
            provider_id=PLAN["team"], provider_type="x", provider_ext_id="y"
        )
        self.assertEqual(by_id_alone, team)
        by_key = service.get_provider(
            provider_id=None, provider_type="oidc", provider_ext_id="T1"
        )
        self.assertEqual(by_key, team)
        for nothing in (0, None):
            found = service.get_provider(provider_id=nothing, provider_type="oidc")
            self.assertEqual(found, alone)
        self.assertIsNone(service.get_provider(provider_type="oidc", provider_ext_id=""))
        self.assertIsNone(service.get_provider(provider_id=4711))
        self.assertIsNone(service.get_provider())

    def test_get_identities_and_get_identity(self):
        for wanted, meant in [
            ({"id": PLAN["first"]}, ["first"]),
            ({"user_id": 7}, ["first", "second"]),
            ({"identity_ext_id": "a"}, ["first", "second"]),
            ({"identity_ext_ids": ["b", "unknown"]}, ["third"]),
            ({"identity_ext_ids": []}, []),
            ({"provider_id": PLAN["team"]}, ["first", "third"]),
            ({"provider_ext_id": "T1"}, ["first", "third"]),
            ({"provider_ext_id": None}, ["second"]),
            ({"provider_type": "oidc", "user_id": 7}, ["first", "second"]),
            ({"provider_type": "oidc", "user_id": 7, "provider_id": PLAN["team"]}, ["first"]),
            ({"provider_type": "none"}, []),
            ({"user_id": None}, []),
        ]:
            found = service.get_identities(filter=wanted)
            self.assertEqual([it["id"] for it in found], [PLAN[it] for it in meant], wanted)
            first = service.get_identity(filter=wanted)
            self.assertEqual(first, found[0] if found else None, wanted)
        first = service.get_identity(filter={"id": PLAN["first"]})
        self.assertEqual(set(first), {"id", "idp_id", "user_id", "external_id", "data"})
        self.assertEqual(
            (first["idp_id"], first["user_id"], first["external_id"]), (PLAN["team"], 7, "a")
        )

    def test_get_user_identities_by_provider_type(self):
        method = service.get_user_identities_by_provider_type
        both = method(user_id=8, provider_type="oidc")
        self.assertEqual([it["id"] for it in both], [PLAN["third"], PLAN["like_its_team"]])
        left = method(user_id=8, provider_type="oidc", exclude_matching_external_ids=True)
        self.assertEqual([it["id"] for it in left], [PLAN["third"]])
        self.assertEqual(method(user_id=9, provider_type="oidc"), [])
        self.assertEqual(method(user_id=8, provider_type="none"), [])

    def test_get_org_user_identities_by_provider_type(self):
        method = service.get_org_user_identities_by_provider_type
        used = method(organization_id=1, user_id=7, provider_type="oidc")
        self.assertEqual([it["id"] for it in used], [PLAN["second"]])
        for other in ({"organization_id": 2}, {"user_id": 8}, {"provider_type": "none"}):
            arguments = {"organization_id": 1, "user_id": 7, "provider_type": "oidc", **other}
            self.assertEqual(method(**arguments), [], other)

    def test_delete_identities(self):
        for _ in range(2):
            self.assertIsNone(service.delete_identities(user_id=7, organization_id=1))
        self.assertIsNone(service.delete_identities(user_id=9, organization_id=2))
        left = service.get_identities(filter={"user_id": 7})
        self.assertEqual([it["id"] for it in left], [PLAN["first"], PLAN["second"]])

    def test_update_data(self):
        for data in ({"org": 1}, {"org": 2, "deep": {"a": [None, True, 1.5]}}, {}):
            answer = service.update_data(identity_id=PLAN["third"], data=data)
            self.assertEqual(self.without_tokens(answer["data"]), data)
            read = service.get_identity(filter={"id": PLAN["third"]})
            self.assertEqual(read, answer)
        self.assertIsNone(service.update_data(identity_id=4711, data={}))

    def without_tokens(self, data):
        return {key: value for key, value in data.items() if key not in TOKENS}

    def test_credentials_are_told_where_the_operator_says_so_and_nowhere_else(self):
        data = service.get_identity(filter={"id": PLAN["first"]})["data"]
        self.assertEqual(self.without_tokens(data), {"name": "Ada"})
        tokens = {key: data[key] for key in TOKENS & set(data)}
        self.assertEqual(tokens, PLAN["tokens"] if PLAN["include_credentials"] else {})

    def test_a_provider_is_found_from_an_identity(self):
        for identity in service.get_identities(filter={"user_id": 7}):
            provider = service.get_provider(provider_id=identity["idp_id"])
            self.assertEqual(provider["type"], "oidc")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]], verbosity=2)
