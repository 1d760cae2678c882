//! The shape of an MCP server, as far as a client goes that reads resources
//! ([MCP](https://modelcontextprotocol.io/specification/2025-11-25/basic/transports)).

use axum::{
    body::Body,
    http::{HeaderValue, Method, Response},
};
use serde_json::{Value, json};

use super::{Worn, written};
use crate::{
    random,
    shape::{
        Expected,
        matching::{Client, Received},
    },
};

const SESSION_ID: &str = "mcp-session-id";

/// The error of a resource that there is none of.
const NOT_FOUND: i64 = -32002;

/// A client's session.
#[derive(Default)]
pub(super) struct Session {
    id: String,
    version: String,
    /// Whether the client said that it is ready.
    ready: bool,
}

impl Worn {
    /// The calls that read a resource of the MCP server at this place, with their names.
    pub(super) fn resources(&self, received: &Received) -> Vec<(String, &Expected)> {
        let calls = self.shape.call.iter().enumerate();
        calls
            .filter(|(_, it)| it.mcp.is_some())
            .filter(|(_, it)| it.url.as_deref().is_some_and(|it| received.is_at(it)))
            .map(|(index, it)| (format!("call {}", index + 1), it))
            .collect()
    }

    /// What the MCP server with these resources answers.
    pub(super) fn speak_mcp(
        &self,
        resources: &[(String, &Expected)],
        received: &Received,
        client: &Client<'_>,
    ) -> Response<Body> {
        let message = Message::of(received);
        let asked = resources.iter().find(|(_, it)| it.mcp.as_deref() == message.uri());
        let Some((name, step)) = asked.or(resources.first()) else {
            return written(404, "text/plain", "nothing is documented here");
        };
        let ends = received.method == Method::DELETE;
        let mut misfits = step.misfits(received, if ends { "DELETE" } else { "POST" }, client);
        let mut run = self.run();
        misfits.extend(message.misfits(received, &run.mcp));
        let mut session = None;
        let answer = match (&received.method, message.method.as_str()) {
            (&Method::POST, "initialize") => {
                let version = message.params["protocolVersion"].as_str().unwrap_or_default();
                run.mcp = Session { id: random::text(), version: version.into(), ready: false };
                session = Some(run.mcp.id.clone());
                Some(json!({ "result": {
                    "protocolVersion": version,
                    "capabilities": { "resources": {} },
                    "serverInfo": { "name": "sandbox", "version": "1" },
                } }))
            }
            (&Method::POST, "notifications/initialized") => {
                run.mcp.ready = true;
                None
            }
            (&Method::POST, "resources/read") => {
                run.steps.push(name.clone());
                if asked.is_some() {
                    Some(json!({ "result": { "contents": [{
                        "uri": message.uri(), "mimeType": "application/json",
                        "text": step.answer.body,
                    }] } }))
                } else {
                    misfits.push("it reads a resource that is not documented".into());
                    Some(json!({ "error": { "code": NOT_FOUND, "message": "Resource not found" } }))
                }
            }
            (&Method::DELETE, _) => {
                run.mcp = Session::default();
                None
            }
            _ => {
                misfits.push("nothing is documented of such a message".into());
                None
            }
        };
        let fits = misfits.is_empty();
        run.complain(&format!("the request {name}"), misfits);
        drop(run);
        if !fits {
            return written(400, "text/plain", "this is not the documented request");
        }
        let Some(mut answer) = answer else { return written(202, "text/plain", "") };
        if step.answer.status != 200 {
            return self.documented(&step.answer, None);
        }
        answer["jsonrpc"] = "2.0".into();
        answer["id"] = message.id.unwrap_or_default();
        let mut response = told(&answer, &step.answer.content_type);
        if let Some(id) = session.and_then(|it| HeaderValue::try_from(it).ok()) {
            response.headers_mut().insert(SESSION_ID, id);
        }
        response
    }
}

/// An answer, as JSON or as an event among others.
fn told(answer: &Value, media_type: &str) -> Response<Body> {
    if media_type != "text/event-stream" {
        return written(200, "application/json", &answer.to_string());
    }
    // Something else comes first, as it may.
    let other = json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": {
        "level": "info", "data": "reading",
    } });
    let stream = format!(": open\n\ndata: {other}\n\nid: 1\ndata: {answer}\n\n");
    written(200, media_type, &stream)
}

/// What a client says.
struct Message {
    method: String,
    id: Option<Value>,
    params: Value,
}

impl Message {
    fn of(received: &Received) -> Self {
        let method = received.json.get("method").and_then(Value::as_str).unwrap_or_default();
        Self {
            method: method.to_owned(),
            id: received.json.get("id").cloned(),
            params: received.json.get("params").cloned().unwrap_or_default(),
        }
    }

    /// The resource that is asked for.
    fn uri(&self) -> Option<&str> {
        self.params["uri"].as_str()
    }

    /// What does not fit the protocol, each in a few words.
    fn misfits(&self, received: &Received, session: &Session) -> Vec<String> {
        let mut misfits = Vec::new();
        let mut must = |fits: bool, what: &str| {
            if !fits {
                misfits.push(what.to_owned());
            }
        };
        let header = |name: &str| {
            let value = received.headers.get(name).and_then(|it| it.to_str().ok());
            value.unwrap_or_default()
        };
        if received.method == Method::POST {
            let accept = header("accept");
            let both = ["application/json", "text/event-stream"];
            must(both.iter().all(|it| accept.contains(it)), "accept names not both media types");
            let version = received.json.get("jsonrpc").and_then(Value::as_str);
            must(version == Some("2.0"), "it is no message of JSON-RPC 2.0");
        }
        if self.method == "initialize" {
            let text = |it: &Value| it.as_str().is_some_and(|it| !it.is_empty());
            must(text(&self.params["protocolVersion"]), "it says no version");
            must(self.params["capabilities"].is_object(), "it says no capabilities");
            must(text(&self.params["clientInfo"]["name"]), "it does not say who the client is");
            return misfits;
        }
        for (name, agreed) in
            [(SESSION_ID, &session.id), ("mcp-protocol-version", &session.version)]
        {
            let what = format!("{name} is not what was agreed upon");
            must(!agreed.is_empty() && header(name) == agreed, &what);
        }
        if self.method == "notifications/initialized" {
            must(self.id.is_none(), "a notification has an id");
        } else if received.method == Method::POST {
            must(session.ready, "nobody said that the client is ready");
        }
        misfits
    }
}
