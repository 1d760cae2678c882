use serde_json::Value;

use crate::{
    Place,
    curl::{Browser, paste},
    running::Running,
};

/// A demo on free ports.
struct Demo {
    running: Running,
    product: String,
    lines: Vec<String>,
}

impl Demo {
    fn start(place: &Place) -> Self {
        let mut running = Running::start(place.command(&[
            "demo",
            "--listen",
            "127.0.0.1:0",
            "--sandbox-listen",
            "127.0.0.1:0",
            "--product-listen",
            "127.0.0.1:0",
        ]));
        running.says("Ctrl-C");
        let product = running.says("  your product ").split_whitespace().last().unwrap().to_owned();
        let lines: Vec<_> =
            running.said().iter().filter(|it| it.starts_with("curl ")).cloned().collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        Self { running, product, lines }
    }
}

#[test]
fn the_three_lines_work_when_they_are_pasted_in_order() {
    let place = Place::new();
    let demo = Demo::start(&place);
    let jar = place.path().join("jar");
    let browser = Browser { jar: &jar };
    assert!(browser.get(&demo.product).body.contains("Connect your Sandbox account"));

    let session: Value = serde_json::from_str(&paste(&demo.lines[0])).unwrap();
    let back = browser.link(session["url"].as_str().unwrap(), "ada");
    assert_eq!((back.status, back.location.as_str()), (303, demo.product.as_str()));

    let token: Value = serde_json::from_str(&paste(&demo.lines[1])).unwrap();
    let access_token = token["access_token"].as_str().unwrap();
    let identities: Value = serde_json::from_str(&paste(&demo.lines[2])).unwrap();
    assert_eq!(identities["items"][0]["external_id"], "ada");
    assert_eq!(identities["items"][0]["status"], "valid");
    assert!(!identities.to_string().contains(access_token));
    demo.running.stop();
}

#[test]
fn the_page_links_shows_a_token_and_unlinks() {
    let place = Place::new();
    let demo = Demo::start(&place);
    let jar = place.path().join("jar");
    let browser = Browser { jar: &jar };
    let at = |path: &str| format!("{}{path}", demo.product);

    let start = browser.post(&at("connect"), "");
    browser.link(&start.location, "grace");
    let page = browser.get(&demo.product).body;
    assert!(page.contains("Your Sandbox account is connected") && page.contains("Grace Hopper"));

    assert_eq!(browser.post(&at("token"), "").status, 303);
    let page = browser.get(&demo.product).body;
    assert!(page.contains("expires in") && page.contains("<b>0</b> refreshes"), "{page}");
    let token: Value = serde_json::from_str(&paste(&demo.lines[1])).unwrap();
    assert!(!page.contains(token["access_token"].as_str().unwrap()));

    browser.post(&at("unlink"), "");
    assert!(browser.get(&demo.product).body.contains("Grace Hopper"), "unlinked without asking");
    browser.post(&at("unlink"), "sure=yes");
    let page = browser.get(&demo.product).body;
    assert!(page.contains("Unlinked") && page.contains("Connect your Sandbox account"), "{page}");
    demo.running.stop();
}

#[test]
fn saying_no_at_the_sandbox_links_nothing() {
    let place = Place::new();
    let demo = Demo::start(&place);
    let jar = place.path().join("jar");
    let browser = Browser { jar: &jar };
    let start = browser.post(&format!("{}connect", demo.product), "");
    let to_sandbox = browser.get(&start.location);
    let refused = browser.post(&to_sandbox.location, "cancel=1");
    let returned = browser.get(&refused.location);
    browser.get(&returned.location);
    let page = browser.get(&demo.product).body;
    assert!(page.contains("You said no at the Sandbox"), "{page}");
    demo.running.stop();
}

#[test]
fn what_was_linked_is_there_after_a_restart_and_offers_to_connect_again() {
    let place = Place::new();
    let jar = place.path().join("jar");
    let browser = Browser { jar: &jar };
    let first = Demo::start(&place);
    let start = browser.post(&format!("{}connect", first.product), "");
    browser.link(&start.location, "ada");
    let old_line = first.lines[2].clone();
    first.running.stop();

    let second = Demo::start(&place);
    assert!(browser.get(&second.product).body.contains("Ada Lovelace"));
    let identities: Value = serde_json::from_str(&paste(&second.lines[2])).unwrap();
    let id = &identities["items"][0]["id"];
    // The key of the first start is no good any more.
    let key =
        |line: &str| line.split("Bearer ").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    let old = second.lines[2].replace(&key(&second.lines[2]), &key(&old_line));
    assert!(paste(&old).contains("unauthenticated"));

    // The new Sandbox has forgotten the grant.
    let refresh = second.lines[1]
        .replace("/v1/token", &format!("/v1/identities/{id}/refresh"))
        .split(" -d ")
        .next()
        .unwrap()
        .to_owned();
    assert!(paste(&format!("{refresh} -X POST")).contains("identity_not_valid"));
    let page = browser.get(&second.product).body;
    assert!(page.contains("Connect again"), "{page}");

    let start = browser.post(&format!("{}connect", second.product), "");
    browser.link(&start.location, "ada");
    let again: Value = serde_json::from_str(&paste(&second.lines[2])).unwrap();
    assert_eq!(&again["items"][0]["id"], id);
    assert_eq!(again["items"][0]["status"], "valid");
    second.running.stop();
}

#[test]
fn json_has_the_pages_the_key_and_the_three_lines() {
    let place = Place::new();
    let any = "127.0.0.1:0";
    let mut running = Running::start(place.command(&[
        "demo",
        "--json",
        "--listen",
        any,
        "--sandbox-listen",
        any,
        "--product-listen",
        any,
    ]));
    // The one object is indented, so a brace alone on its line is its end.
    let mut text = String::new();
    while !text.ends_with("\n}") {
        let line = running.next_line();
        text = format!("{text}\n{line}");
    }
    let told: Value = serde_json::from_str(&text).unwrap();
    let jar = place.path().join("jar");
    let browser = Browser { jar: &jar };
    let page = |name: &str| told["pages"][name].as_str().unwrap().to_owned();
    assert!(browser.get(&page("product")).body.contains("Connect your Sandbox account"));
    assert!(page("docs").ends_with("/docs") && page("sandbox").starts_with("http://127.0.0.1:"));
    let lines: Vec<_> = told["curl"].as_array().unwrap().iter().collect();
    assert_eq!(lines.len(), 3);
    assert!(
        lines.iter().all(|it| it.as_str().unwrap().contains(told["api_key"].as_str().unwrap()))
    );
    let session: Value = serde_json::from_str(&paste(lines[0].as_str().unwrap())).unwrap();
    assert!(session["url"].is_string(), "{session}");
    running.stop();
}

#[test]
fn two_demos_do_not_share_a_directory() {
    let place = Place::new();
    let demo = Demo::start(&place);
    place.run(&["demo", "--listen", "127.0.0.1:0"]).failed("another demo runs in symbolon-demo");
    demo.running.stop();
}

#[test]
fn the_page_takes_no_requests_from_elsewhere() {
    let place = Place::new();
    let demo = Demo::start(&place);
    let jar = place.path().join("jar");
    let browser = Browser { jar: &jar };
    let rebound = browser.ask(&["-H", "Host: evil.example"], &demo.product);
    assert_eq!(rebound.status, 403);
    let connect = format!("{}connect", demo.product);
    let forged = browser.ask(&["-X", "POST", "-H", "Origin: http://evil.example"], &connect);
    assert_eq!(forged.status, 403);
    demo.running.stop();
}

#[test]
fn a_port_that_was_asked_for_and_is_taken_is_told() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    place.run(&["demo", "--listen", &address]).failed(&format!("cannot listen on {address}"));
}
