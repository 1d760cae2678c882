//! A profile that is a resource of an MCP server, read over the streamable HTTP transport
//! ([MCP 2025-11-25](https://modelcontextprotocol.io/specification/2025-11-25/basic/transports)).

use serde_json::{Map, Value, json};
use symbolon_domain::ports::ConnectorError;
use url::Url;

use super::{
    connector::{CatalogConnector, filled},
    entry::Call,
    profile::Unanswered,
};
use crate::{
    connector::to_domain,
    dpop::Presented,
    event_stream::EventStream,
    http::{HttpRequest, HttpResponse},
    json,
    metadata::misconfigured,
    untrusted,
};

/// The versions of the protocol in which a resource is read as here, the one that we ask for first.
const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

const SESSION_ID: &str = "mcp-session-id";
const PROTOCOL_VERSION: &str = "mcp-protocol-version";

/// Longest session id that is sent back.
const LONGEST_ID: usize = 1024;

/// The error of a server that is in trouble itself
/// ([JSON-RPC 2.0 §5.1](https://www.jsonrpc.org/specification#error_object)); every other one is
/// about what was asked.
const INTERNAL_ERROR: i64 = -32603;

/// What was agreed upon at the beginning.
struct Session {
    /// `None` of a server that keeps none.
    id: Option<String>,
    version: &'static str,
}

/// What a server answered to a request.
enum Reply {
    Result(Map<String, Value>),
    Error(i64),
}

/// One resource, to be read with one access token.
pub(super) struct McpResource<'a> {
    pub(super) connector: &'a CatalogConnector,
    pub(super) call: &'a Call,
    pub(super) url: Url,
    pub(super) uri: &'a str,
    pub(super) access: &'a Presented<'a>,
}

impl McpResource<'_> {
    /// What the text of the resource says, which must be JSON.
    pub(super) async fn read(&self) -> Result<Value, Unanswered> {
        if self.access.key.is_some() {
            let what =
                "a resource of an MCP server is not read with tokens that are bound to a key";
            return Err(misconfigured(what).into());
        }
        let client = json!({ "name": "symbolon", "version": env!("CARGO_PKG_VERSION") });
        let params =
            json!({ "protocolVersion": VERSIONS[0], "capabilities": {}, "clientInfo": client });
        let (agreed, answer) = self.ask(1, "initialize", params, None).await?;
        let session = self.session(&agreed, &answer)?;
        let read = self.read_in(&session).await;
        self.end(&session).await;
        read
    }

    async fn read_in(&self, session: &Session) -> Result<Value, Unanswered> {
        let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        // Whatever may be said to that is not waited for.
        let answer = self.send(self.post(&ready, Some(session)), &mut |_| true).await?;
        self.connector.check_status(self.call, &answer)?;
        let params = json!({ "uri": self.uri });
        let (result, _) = self.ask(2, "resources/read", params, Some(session)).await?;
        let contents = result.get("contents").and_then(Value::as_array);
        let is_asked_for = |it: &&Value| it.get("uri").is_none_or(|it| it == self.uri);
        let mut asked_for = contents.into_iter().flatten().filter(is_asked_for);
        let text = asked_for.find_map(|it| it.get("text")?.as_str());
        let text = text.ok_or_else(|| self.untrusted("it has no text"))?;
        json::value(text.as_bytes()).map_err(|_| self.untrusted("its text is no JSON").into())
    }

    fn session(
        &self,
        agreed: &Map<String, Value>,
        answer: &HttpResponse,
    ) -> Result<Session, Unanswered> {
        let version = agreed.get("protocolVersion").and_then(Value::as_str);
        let version = VERSIONS.into_iter().find(|it| Some(*it) == version).ok_or_else(|| {
            let name = &self.call.name;
            misconfigured(&format!("the call {name}: the MCP server speaks another version of it"))
        })?;
        let id = answer.header(SESSION_ID);
        if id.is_some_and(|it| it.len() > LONGEST_ID || !it.bytes().all(|it| it.is_ascii_graphic()))
        {
            return Err(self.untrusted("its session id cannot be sent back").into());
        }
        Ok(Session { id: id.map(str::to_owned), version })
    }

    /// Tells the server that it may forget the session. Nothing depends on it, and a server need
    /// not have this.
    async fn end(&self, session: &Session) {
        if session.id.is_some() {
            let request = self.headers(HttpRequest::delete(self.url.clone()), Some(session));
            drop(self.send(request, &mut |_| true).await);
        }
    }

    /// Sends one request, and waits for what is answered to it: a JSON text, or an event among
    /// others.
    async fn ask(
        &self,
        id: u64,
        method: &str,
        params: Value,
        session: Option<&Session>,
    ) -> Result<(Map<String, Value>, HttpResponse), Unanswered> {
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let (mut events, mut reply) = (EventStream::default(), None);
        let mut watch = |piece: &[u8]| {
            events.read(piece, |data| {
                if reply.is_none() {
                    reply = json::value(data).ok().and_then(|it| Reply::to(id, it));
                }
            });
            reply.is_some()
        };
        let answer = self.send(self.post(&message, session), &mut watch).await?;
        self.connector.check_status(self.call, &answer)?;
        let media_type = answer.header("content-type").unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        let reply = if media_type.eq_ignore_ascii_case("text/event-stream") {
            reply.ok_or_else(|| self.connector.unreadable(self.call, &answer))?
        } else {
            let body = answer.body.as_ref().ok().and_then(|it| json::value(it).ok());
            let body = body.ok_or_else(|| self.connector.unreadable(self.call, &answer))?;
            Reply::to(id, body).ok_or_else(|| self.untrusted("it is not about what was asked"))?
        };
        let name = &self.call.name;
        match reply {
            Reply::Result(result) => Ok((result, answer)),
            Reply::Error(code @ INTERNAL_ERROR) => {
                let what = format!("the call {name} was answered with the error {code}");
                Err(self.connector.unavailable(&answer, what).into())
            }
            Reply::Error(code) => Err(Unanswered::Refused(misconfigured(&format!(
                "the call {name} was answered with the error {code}: check that the client may \
                 read {}, and that the scopes suffice for it",
                self.uri
            )))),
        }
    }

    async fn send(
        &self,
        request: HttpRequest,
        enough: &mut (dyn FnMut(&[u8]) -> bool + Send),
    ) -> Result<HttpResponse, Unanswered> {
        let http = &self.connector.base.engine.http;
        Ok(http.send_until(request, enough).await.map_err(to_domain)?)
    }

    fn post(&self, message: &Value, session: Option<&Session>) -> HttpRequest {
        let body = message.to_string().into_bytes();
        let request = HttpRequest::post(self.url.clone(), "application/json", body);
        self.headers(request.accept("application/json, text/event-stream"), session)
    }

    fn headers(&self, request: HttpRequest, session: Option<&Session>) -> HttpRequest {
        let own = filled(&self.call.headers, &self.connector.parameters.alone());
        let mut request = own.iter().fold(request, |it, (name, value)| it.with_header(name, value));
        if let Some(session) = session {
            request = request.with_header(PROTOCOL_VERSION, session.version);
            if let Some(id) = &session.id {
                request = request.with_header(SESSION_ID, id);
            }
        }
        request.authorization(&self.call.scheme, self.access.token.expose())
    }

    fn untrusted(&self, why: &str) -> ConnectorError {
        untrusted(&format!("the answer to the call {}", self.call.name), why)
    }
}

impl Reply {
    /// What a message, or one of several, answers to the request of this id. Everything else is
    /// about something else: notifications, and requests of the server's own.
    fn to(id: u64, message: Value) -> Option<Self> {
        match message {
            Value::Array(messages) => messages.into_iter().find_map(|it| Self::to_one(id, it)),
            message => Self::to_one(id, message),
        }
    }

    fn to_one(id: u64, message: Value) -> Option<Self> {
        let Value::Object(mut message) = message else { return None };
        if message.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return None;
        }
        let about = message.get("id").unwrap_or(&Value::Null);
        if let Some(error) = message.get("error") {
            // Without an id it is about a request that the server could not read.
            let ours = about.is_null() || about.as_u64() == Some(id);
            return ours.then(|| Self::Error(error["code"].as_i64().unwrap_or_default()));
        }
        if about.as_u64() != Some(id) {
            return None;
        }
        match message.remove("result")? {
            Value::Object(result) => Some(Self::Result(result)),
            _ => None,
        }
    }
}
