use symbolon::trial::{Report, Verdict, try_out};
use symbolon_oauth2::catalog::Catalog;
use symbolon_sandbox::shape::Shape;

const ENTRY: &str = r#"
title = "Wiki"
description = "A wiki."
documentation = ["https://wiki.example/oauth"]
checked = "2026-11-25"
evidence = "pages"
[authorization]
url = "https://wiki.example/authorize"
scopes = ["read"]
[token]
url = "https://wiki.example/token"
authentication = "post"
[refresh]
rotation = "rotates"
[[profile]]
url = "https://wiki.example/me"
[account]
id = "/profile/id"
name = "/profile/name"
email = "/profile/mail"
email_verified = "/profile/confirmed"
keep = { login = "/profile/login" }
[revoke]
url = "https://wiki.example/revoke"
[[errors]]
when = [{ at = "/error", is = "token_gone" }]
class = "grant_rejected"
code = "token_gone"
source = "https://wiki.example/oauth"
"#;

const SHAPE: &str = r#"
sources = ["https://wiki.example/oauth"]
[config]
client_id = "wiki-client"
client_secret = "wiki-secret"
[authorize]
url = "https://wiki.example/authorize"
query = { scope = "read", client_id = "wiki-client", redirect_uri = "*", state = "*" }
[token]
url = "https://wiki.example/token"
form = { client_id = "wiki-client", client_secret = "wiki-secret", redirect_uri = "*" }
answer = { body = '{"access_token":"access-1","refresh_token":"refresh-1","expires_in":600,"scope":"read","token_type":"bearer"}' }
[refresh]
form = { refresh_token = "refresh-1", grant_type = "refresh_token" }
answer = { body = '{"access_token":"access-2","refresh_token":"refresh-2","expires_in":600}' }
dead = { status = 403, body = '{"error":"token_gone"}' }
[wrong_client]
answer = { status = 401, body = '{"error":"invalid_client"}' }
[[call]]
url = "https://wiki.example/me"
headers = { Authorization = "Bearer access-1" }
answer = { body = '{"id":7,"name":"Ada","mail":"ada@wiki.example","confirmed":true,"login":"ada"}' }
[[revoke]]
url = "https://wiki.example/revoke"
form = { token = "refresh-1" }
[expect]
external_id = "7"
name = "Ada"
email = "ada@wiki.example"
email_verified = true
expires_in = 600
scopes = ["read"]
keep = { login = "ada" }
"#;

async fn trial(entry: &str, shape: &str) -> Report {
    let own = Catalog::entry("wiki", entry).unwrap();
    try_out("wiki", &own, Shape::parse(shape).unwrap()).await.unwrap()
}

/// The steps with a problem, with what is told of it.
fn problems(report: &Report) -> Vec<String> {
    let wrong = report.findings.iter().filter(|it| it.verdict == Verdict::Problem);
    wrong.map(|it| format!("{}: {}", it.step, it.detail)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_entry_passes_every_step() {
    let report = trial(ENTRY, SHAPE).await;
    // Both tokens are revoked, and the page shows the one.
    let shape = SHAPE.replace("form = { token = \"refresh-1\" }", "form = { token = \"*\" }");
    assert_eq!(problems(&trial(ENTRY, &shape).await), Vec::<String>::new());
    let steps: Vec<&str> = report.findings.iter().map(|it| it.step.as_str()).collect();
    assert_eq!(
        steps,
        [
            "configuration",
            "authorization",
            "exchange",
            "profile",
            "account",
            "token",
            "refresh",
            "refresh, dead token",
            "refresh, server error",
            "refresh, too many requests",
            "refresh, a page",
            "refresh, broken off",
            "wrong client secret",
            "revoke",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_of_an_entry_is_told_at_its_step() {
    for (from, to, expected) in [
        ("example/authorize", "example/authorise", "authorization: "),
        ("scopes = [\"read\"]", "scopes = [\"write\"]", "authorization: "),
        ("authentication = \"post\"", "authentication = \"basic\"", "exchange: "),
        ("example/token", "example/tokens", "exchange: "),
        ("example/me", "example/you", "profile: "),
        ("/profile/name", "/profile/login", "account: the name"),
        ("email_verified = \"/profile/confirmed\"", "", "account: the address is not verified"),
        ("/profile/login", "/profile/other", "account: what is kept as login"),
        ("token_gone\" }]", "gone\" }]", "refresh, dead token: "),
        ("[revoke]\nurl = \"https://wiki.example/revoke\"", "", "revoke: the documentation"),
        ("example/revoke", "example/withdraw", "revoke: "),
        ("[refresh]\nrotation = \"rotates\"", "", "refresh: the documentation"),
    ] {
        assert!(ENTRY.contains(from), "{from}");
        let told = problems(&trial(&ENTRY.replacen(from, to, 1), SHAPE).await);
        assert!(told.iter().any(|it| it.starts_with(expected)), "{from} -> {to}: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_insists_on_is_missed() {
    for (from, to, expected) in [
        (
            "redirect_uri = \"*\" }\nanswer",
            "redirect_uri = \"*\", audience = \"x\" }\nanswer",
            "exchange: ",
        ),
        (
            "headers = { Authorization = \"Bearer access-1\" }",
            "headers = { X-Version = \"2\" }",
            "profile: ",
        ),
        ("form = { refresh_token", "basic = true\nform = { refresh_token", "refresh: "),
        ("state = \"*\" }", "state = \"*\" }\nabsent = [\"code_challenge\"]", "authorization: "),
        ("expires_in = 600", "expires_in = 60", "token: "),
        ("external_id = \"7\"", "external_id = \"8\"", "account: the id is 7"),
    ] {
        assert!(SHAPE.contains(from), "{from}");
        let told = problems(&trial(ENTRY, &SHAPE.replacen(from, to, 1)).await);
        assert!(told.iter().any(|it| it.starts_with(expected)), "{from} -> {to}: {told:?}");
    }
}

/// The wiki as one whose client registers itself, and whose profile an MCP server has.
fn registering() -> (String, String) {
    let entry = ENTRY
        .replace("[token]", "[registration]\nurl = \"https://wiki.example/register\"\n[token]")
        .replace("authentication = \"post\"", "authentication = \"basic\"")
        .replace(
            "url = \"https://wiki.example/me\"",
            "url = \"https://wiki.example/mcp\"\nmcp = \"wiki://me\"",
        );
    let registered = r#"
[registration]
url = "https://wiki.example/register"
json = { client_name = "Symbolon", redirect_uris = "*", token_endpoint_auth_method = "client_secret_basic" }
answer = { status = 201, body = '{"client_id":"wiki-client","client_secret":"wiki-secret","token_endpoint_auth_method":"client_secret_post","registration_client_uri":"https://wiki.example/register/1","registration_access_token":"manage"}' }
[deregistration]
url = "https://wiki.example/register/1"
headers = { Authorization = "Bearer manage" }
answer = { status = 204 }
"#;
    let config = "[config]\nclient_id = \"wiki-client\"\nclient_secret = \"wiki-secret\"\n";
    let shape = SHAPE
        .replace(config, registered)
        .replace("token = \"refresh-1\" }", "token = \"*\" }")
        .replace(
            "url = \"https://wiki.example/me\"",
            "url = \"https://wiki.example/mcp\"\nmcp = \"wiki://me\"",
        );
    (entry, shape)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_registers_itself_is_registered_used_and_taken_back() {
    let (entry, shape) = registering();
    for answer in [
        "answer = { body = '{\"id\":7",
        "answer = { content_type = \"text/event-stream\", body = '{\"id\":7",
    ] {
        let shape = shape.replace("answer = { body = '{\"id\":7", answer);
        let report = trial(&entry, &shape).await;
        assert_eq!(problems(&report), Vec::<String>::new());
        for step in ["registration", "profile", "deregistration"] {
            let found = report.findings.iter().find(|it| it.step == step);
            assert_eq!(found.map(|it| it.verdict), Some(Verdict::Ok), "{step}");
        }
    }
    for (of_entry, from, to, expected) in [
        (true, "example/register", "example/clients", "registration: "),
        (true, "[token]", "grant_types = [\"authorization_code\"]\n[token]", ""),
        (true, "[registration]\nurl = \"https://wiki.example/register\"\n", "", "configuration: "),
        (true, "wiki://me", "wiki://you", "profile: "),
        (true, "\nmcp = \"wiki://me\"", "", "profile: "),
        (false, "client_name = \"Symbolon\"", "client_name = \"Other\"", "registration: "),
        (false, "\"client_id\":\"wiki-client\",", "", "registration: "),
        (false, "/register/1\"\nheaders", "/register/2\"\nheaders", "deregistration: "),
        (false, "Bearer manage", "Bearer other", "deregistration: "),
        (false, "Bearer access-1", "Bearer other", "profile: "),
        (false, "'{\"id\":7,", "'{\"id\":7;", "profile: "),
    ] {
        let one = if of_entry { &entry } else { &shape };
        assert!(one.contains(from), "{from}");
        let changed = one.replacen(from, to, 1);
        let report =
            if of_entry { trial(&changed, &shape).await } else { trial(&entry, &changed).await };
        let told = problems(&report);
        if expected.is_empty() {
            assert_eq!(told, Vec::<String>::new(), "{from} -> {to}");
        } else {
            assert!(told.iter().any(|it| it.starts_with(expected)), "{from} -> {to}: {told:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_refresh_token_is_as_the_entry_says() {
    let reusable = ENTRY.replace("\"rotates\"", "\"reusable\"");
    let same = SHAPE.replace("\"refresh_token\":\"refresh-2\",", "");
    let stays = SHAPE.replace("[refresh]\n", "[refresh]\nstays_good = true\n");
    for (entry, shape, is_right) in [
        (ENTRY, SHAPE, true),
        (ENTRY, same.as_str(), false),
        (&reusable, SHAPE, false),
        (&reusable, &same, true),
        (&reusable, &stays, true),
        (&ENTRY.replace("\"rotates\"", "\"may_rotate\""), SHAPE, true),
        (&ENTRY.replace("\"rotates\"", "\"may_rotate\""), &same, true),
    ] {
        let shape = shape.replace("token = \"refresh-1\" }", "token = \"*\" }");
        let told = problems(&trial(entry, &shape).await);
        assert_eq!(told.is_empty(), is_right, "{told:?}");
        assert!(told.iter().all(|it| it.starts_with("refresh: ")), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_twice_or_for_nothing_is_noticed() {
    let shape = SHAPE.replace("token = \"refresh-1\" }", "token = \"*\" }");
    let twice = ENTRY.replace(
        "url = \"https://wiki.example/authorize\"",
        "url = \"https://wiki.example/authorize?prompt=a\"\nparameters = { prompt = \"b\" }",
    );
    let told = problems(&trial(&twice, &shape).await);
    assert!(told[0].starts_with("authorization: ") && told[0].contains("prompt"), "{told:?}");
    let twice = ENTRY
        .replace("url = \"https://wiki.example/me\"", "url = \"https://wiki.example/me?v=1&v=2\"");
    let told = problems(&trial(&twice, &shape).await);
    assert!(told[0].starts_with("profile: ") && told[0].contains("v is sent"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documentations_own_example_passes() {
    let page = include_str!("../../../../docs/catalog.md");
    let (_, page) = page.split_once("## One of your own").unwrap();
    let blocks: Vec<&str> =
        page.split("```toml\n").skip(1).map(|it| it.split("```").next().unwrap()).collect();
    let report = trial(blocks[0], blocks[1]).await;
    assert_eq!(problems(&report), Vec::<String>::new());
}
