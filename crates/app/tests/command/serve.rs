use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    Place,
    curl::{Browser, paste},
    running::Running,
};

/// A place with a key ring and a configuration for an embedded database and a free port.
fn configured() -> Place {
    let place = Place::new();
    place.run(&["keyring", "generate", "--file", "ring.json"]).done();
    place.write(
        "symbolon.toml",
        "server.listen = '127.0.0.1:0'\ndatabase.url = 'sqlite:symbolon.db'\n\
         keyring.file = 'ring.json'\nlink.return_urls = ['https://app.example/']\n",
    );
    place
}

#[test]
fn the_service_answers_and_ends_in_order_when_asked() {
    let place = configured();
    let mut service = Running::start(place.command(&["serve"]));
    let address = service.address();
    assert!(!address.ends_with(":0"), "{address}");
    let jar = place.path().join("jar");
    let browser = Browser { jar: &jar };
    assert_eq!(browser.get(&format!("{address}/healthz")).status, 200);
    let ready = browser.get(&format!("{address}/readyz"));
    assert_eq!(ready.status, 200, "{ready:?}");
    let metrics = browser.get(&format!("{address}/metrics")).body;
    assert!(metrics.contains("symbolon_build_info{version="), "{metrics}");
    let log = service.stop();
    assert!(log.contains("stopping") && log.contains("stopped"), "{log}");
}

#[test]
fn an_interrupt_ends_the_service_in_order_too() {
    let place = configured();
    let mut service = Running::start(place.command(&["serve"]));
    service.address();
    service.signal("-INT");
    let (status, log) = service.end();
    assert_eq!(status, Some(0), "{log}");
}

#[test]
fn log_lines_are_json_when_asked_for_and_hold_no_colours() {
    let place = configured();
    let mut command = place.command(&["serve"]);
    command.env("SYMBOLON__TELEMETRY__LOG_FORMAT", "json");
    let mut service = Running::start(command);
    service.address();
    for line in service.stop().lines() {
        let line: Value = serde_json::from_str(line).expect(line);
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
}

/// One request of a collector's client: its first line and its body.
fn received(mut stream: TcpStream) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok()?;
    Some((first, body))
}

#[test]
fn spans_of_requests_reach_the_collector_and_hold_no_secret() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let (sender, sent) = mpsc::channel();
    thread::spawn(move || {
        for stream in collector.incoming().map_while(Result::ok) {
            if received(stream).is_some_and(|it| sender.send(it).is_err()) {
                return;
            }
        }
    });
    let place = configured();
    let mut command = place.command(&["serve"]);
    command.env("SYMBOLON__TELEMETRY__OTLP_ENDPOINT", endpoint);
    command.env("SYMBOLON_LOG", "trace");
    let mut service = Running::start(command);
    let address = service.address();
    let create = ["api-key", "create", "--name", "product", "--scope", "admin", "--json"];
    let key: Value = serde_json::from_str(&place.run(&create).done()).unwrap();
    let secret = key["secret"].as_str().unwrap();
    let line = format!(
        "curl -sS '{address}/v1/identities?user_id=somebody' -H 'Authorization: Bearer {secret}'"
    );
    assert!(paste(&line).contains("items"));
    service.stop();

    // The last spans left before the process ended.
    let mut all = Vec::new();
    while let Ok((first, body)) = sent.recv_timeout(Duration::from_secs(1)) {
        assert!(first.starts_with("POST /v1/traces "), "{first}");
        all.extend(body);
    }
    let has = |text: &str| all.windows(text.len()).any(|it| it == text.as_bytes());
    assert!(has("symbolon") && has("request_id") && has("/v1/identities"));
    assert!(!has(secret) && !has("somebody"));
}

#[test]
fn what_is_allowed_and_hardly_meant_is_warned_of() {
    let place = configured();
    let mut command = place.command(&["serve"]);
    command.env("SYMBOLON__REFRESH__AHEAD", "1m");
    let mut service = Running::start(command);
    service.logs("refresh.ahead is not longer than refresh.margin");
    service.address();
    let log = service.stop();
    assert_eq!(log.matches("is not longer than").count(), 1, "{log}");
}

#[test]
fn a_new_key_is_good_at_once_and_a_revoked_one_is_not() {
    let place = configured();
    let mut service = Running::start(place.command(&["serve"]));
    let address = service.address();
    let create = ["api-key", "create", "--name", "product", "--scope", "providers:read", "--json"];
    let key: Value = serde_json::from_str(&place.run(&create).done()).unwrap();
    let (id, secret) = (key["id"].to_string(), key["secret"].as_str().unwrap());
    let ask = |secret: &str| {
        paste(&format!("curl -sS {address}/v1/providers -H 'Authorization: Bearer {secret}'"))
    };
    assert!(ask(secret).contains("items"));
    assert!(!place.run(&["api-key", "list"]).done().contains(secret));

    let other: Value = serde_json::from_str(&place.run(&create).done()).unwrap();
    place.run(&["api-key", "revoke", &other["id"].to_string()]).done();
    assert!(ask(other["secret"].as_str().unwrap()).contains("unauthenticated"));
    let list: Value =
        serde_json::from_str(&place.run(&["api-key", "list", "--json"]).done()).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert!(list[0]["revoked_at"].is_null() && list[1]["revoked_at"].is_string(), "{list}");
    assert_eq!(list[0]["id"].to_string(), id);
    service.stop();
}

#[test]
fn providers_of_the_configuration_are_there_and_kept_as_configured() {
    let place = configured();
    let config = place.read("symbolon.toml");
    place.write("secret", "canary-secret\n");
    let with_provider = |client: &str| {
        format!(
            "{config}\n[[providers]]\ntype = 'oidc'\nexternal_id = 'x'\n[providers.config]\n\
             issuer = 'https://issuer.example'\nclient_id = '{client}'\n\
             client_secret_file = 'secret'\n"
        )
    };
    let mut rows = Vec::new();
    for client in ["first", "first", "second"] {
        place.write("symbolon.toml", &with_provider(client));
        let mut service = Running::start(place.command(&["serve"]));
        let address = service.address();
        let create = ["api-key", "create", "--name", "x", "--scope", "admin", "--json"];
        let key: Value = serde_json::from_str(&place.run(&create).done()).unwrap();
        let secret = key["secret"].as_str().unwrap();
        let list =
            paste(&format!("curl -sS {address}/v1/providers -H 'Authorization: Bearer {secret}'"));
        assert!(!list.contains("canary"));
        let list: Value = serde_json::from_str(&list).unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
        rows.push(list["items"][0].clone());
        let log = service.stop();
        assert!(!log.contains("canary"), "{log}");
    }
    assert_eq!(rows[0]["version"], rows[1]["version"], "an unchanged provider was written");
    assert_eq!(rows[2]["config"]["client_id"], "second");
    assert_eq!(rows[0]["id"], rows[2]["id"]);
}

#[test]
fn the_service_does_not_start_where_it_cannot() {
    let place = configured();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let environment = [("SYMBOLON__SERVER__LISTEN", address.as_str())];
    place.run_with(&environment, &["serve"]).failed(&format!("cannot listen on {address}"));
    let environment = [("SYMBOLON__KEYRING__FILE", "missing.json")];
    place.run_with(&environment, &["serve"]).failed("there is no key ring at missing.json");
}
