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
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let params = received.json.get("params").cloned().unwrap_or_default();
        let method = received.json.get("method").map(text).unwrap_or_default();
        let id = received.json.get("id").cloned();
        let asked = resources.iter().find(|(_, it)| it.mcp.as_deref() == params["uri"].as_str());
        let Some((name, step)) = asked.or(resources.first()) else {
            return written(404, "text/plain", "nothing is documented here");
        };
        let mut misfits = step.misfits(received, "POST", client);
        if received.method == Method::DELETE {
            misfits.retain(|it| !it.starts_with("its method"));
        }
        let header = |name: &str| {
            let value = received.headers.get(name).and_then(|it| it.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let accept = header("accept");
        if received.method == Method::POST
            && !["application/json", "text/event-stream"].iter().all(|it| accept.contains(it))
        {
            misfits.push("accept names not both media types".into());
        }
        if received.method == Method::POST && received.json.get("jsonrpc") != Some(&json!("2.0")) {
            misfits.push("it is no message of JSON-RPC 2.0".into());
        }
        let mut run = self.run();
        if method != "initialize" {
            for (name, expected) in
                [(SESSION_ID, &run.mcp.id), ("mcp-protocol-version", &run.mcp.version)]
            {
                if expected.is_empty() || header(name) != *expected {
                    misfits.push(format!("{name} is not what was agreed upon"));
                }
            }
        }
        let mut session = None;
        let result = match (&received.method, method.as_str()) {
            (&Method::POST, "initialize") => {
                let version = text(&params["protocolVersion"]);
                if version.is_empty() || !params["capabilities"].is_object() {
                    misfits.push("it says neither version nor capabilities".into());
                }
                if text(&params["clientInfo"]["name"]).is_empty() {
                    misfits.push("it does not say who the client is".into());
                }
                run.mcp = Session { id: random::text(), version: version.clone(), ready: false };
                session = Some(run.mcp.id.clone());
                json!({ "result": {
                    "protocolVersion": version,
                    "capabilities": { "resources": {} },
                    "serverInfo": { "name": "sandbox", "version": "1" },
                } })
            }
            (&Method::POST, "notifications/initialized") => {
                if id.is_some() {
                    misfits.push("a notification has an id".into());
                }
                run.mcp.ready = true;
                Value::Null
            }
            (&Method::POST, "resources/read") => {
                if !run.mcp.ready {
                    misfits.push("nobody said that the client is ready".into());
                }
                run.steps.push(name.clone());
                if asked.is_some() {
                    json!({ "result": { "contents": [{
                        "uri": params["uri"], "mimeType": "application/json",
                        "text": step.answer.body,
                    }] } })
                } else {
                    misfits.push("it reads a resource that is not documented".into());
                    json!({ "error": { "code": NOT_FOUND, "message": "Resource not found" } })
                }
            }
            (&Method::DELETE, _) => {
                run.mcp = Session::default();
                Value::Null
            }
            _ => {
                misfits.push("nothing is documented of such a message".into());
                json!({ "error": { "code": -32601, "message": "Method not found" } })
            }
        };
        let fits = misfits.is_empty();
        run.complain(&format!("the request {name}"), misfits);
        drop(run);
        if !fits {
            return written(400, "text/plain", "this is not the documented request");
        }
        if result.is_null() {
            return written(202, "text/plain", "");
        }
        if step.answer.status != 200 {
            return self.documented(&step.answer, None);
        }
        let mut message = result;
        message["jsonrpc"] = "2.0".into();
        message["id"] = id.unwrap_or_default();
        let media_type = step.answer.content_type.as_str();
        let mut response = if media_type == "text/event-stream" {
            // Something else comes first, as it may.
            let other = json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": {
                "level": "info", "data": "reading",
            } });
            let stream = format!(": open\n\ndata: {other}\n\nid: 1\ndata: {message}\n\n");
            written(200, media_type, &stream)
        } else {
            written(200, "application/json", &message.to_string())
        };
        if let Some(id) = session.and_then(|it| HeaderValue::try_from(it).ok()) {
            response.headers_mut().insert(SESSION_ID, id);
        }
        response
    }
}
