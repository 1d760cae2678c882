//! What the shape of a provider notices of a client that our own engine never is.

use serde_json::{Value, json};
use symbolon_sandbox::shape::{Shape, ShapeServer};
use url::Url;

const SHAPE: &str = r#"
sources = ["https://wiki.example/oauth"]
[config]
client_id = "wiki-client"
[authorize]
url = "https://wiki.example/authorize"
[token]
url = "https://wiki.example/token"
answer = { body = '{"access_token":"access-1"}' }
[[call]]
url = "https://wiki.example/mcp"
mcp = "wiki://me"
answer = { body = '{"id":7}' }
[expect]
external_id = "7"
"#;

struct Client {
    server: ShapeServer,
    http: reqwest::Client,
}

impl Client {
    async fn new() -> Self {
        let server = ShapeServer::start(Shape::parse(SHAPE).unwrap()).await.unwrap();
        Self { server, http: reqwest::Client::builder().build().unwrap() }
    }

    fn post(&self, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.server.address());
        self.http.post(url).header("host", "wiki.example")
    }

    /// Trades the code of an attempt whose authorization request has this query; what was noticed.
    async fn trade(&self, query: &str, form: &str) -> Vec<String> {
        let url = format!("https://wiki.example/authorize?state=s&redirect_uri=r&{query}");
        let visit = self.server.visit(&Url::parse(&url).unwrap());
        let code = &visit.parameters["code"];
        let body = format!("grant_type=authorization_code&redirect_uri=r&code={code}{form}");
        let request = self.post("/token").body(body);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        request.send().await.unwrap();
        self.server.take_complaints()
    }

    /// Says one thing to the MCP server: the status, and what was noticed.
    async fn say(&self, message: &Value, headers: &[(&str, &str)]) -> (u16, Vec<String>) {
        let mut request = self.post("/mcp").body(message.to_string());
        request = request.header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let status = request.send().await.unwrap().status().as_u16();
        (status, self.server.take_complaints())
    }
}

#[tokio::test]
async fn what_an_exchange_says_twice_or_without_need_is_noticed() {
    let client = Client::new().await;
    assert_eq!(client.trade("scope=read", "").await, Vec::<String>::new());
    for (query, form, expected) in [
        ("scope=read&scope=write", "", "the authorization request: scope is sent more than once"),
        ("scope=read", "&client_id=a&client_id=a", "client_id is sent more than once"),
        ("scope=read", "&code_verifier=v", "there was no code_challenge"),
        ("code_challenge=c&code_challenge_method=S256", "", "code_verifier does not fit"),
    ] {
        let noticed = client.trade(query, form).await;
        assert!(noticed.iter().any(|it| it.contains(expected)), "{query} {form}: {noticed:?}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_keep_to_the_protocol_of_mcp_is_told() {
    let client = Client::new().await;
    let accept = ("accept", "application/json, text/event-stream");
    let version = ("mcp-protocol-version", "2025-06-18");
    let read = json!({"jsonrpc": "2.0", "id": 2, "method": "resources/read",
        "params": {"uri": "wiki://me"}});
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let first = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": {"name": "c", "version": "1"},
    }});
    let refused = |(status, noticed): (u16, Vec<String>), expected: &str| {
        assert!(status == 400 && noticed.iter().any(|it| it.contains(expected)), "{noticed:?}");
    };
    refused(client.say(&read, &[accept]).await, "mcp-session-id is not what was agreed upon");
    refused(client.say(&first, &[]).await, "accept names not both");
    let mut hasty = first.clone();
    hasty["params"] = json!({});
    refused(client.say(&hasty, &[accept]).await, "no version");

    let begun = client.post("/mcp").body(first.to_string()).header(accept.0, accept.1);
    let begun = begun.header("content-type", "application/json").send().await.unwrap();
    let session = begun.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    assert_eq!(client.server.take_complaints(), Vec::<String>::new());
    let session = ("mcp-session-id", session.as_str());
    refused(client.say(&read, &[accept, session, version]).await, "nobody said");
    refused(client.say(&ready, &[accept, session]).await, "mcp-protocol-version");
    let said = client.say(&ready, &[accept, session, version]).await;
    assert_eq!(said, (202, Vec::new()));
    let mut other = read.clone();
    other["params"]["uri"] = "wiki://you".into();
    refused(client.say(&other, &[accept, session, version]).await, "not documented");
    assert_eq!(client.say(&read, &[accept, session, version]).await, (200, Vec::new()));
}
