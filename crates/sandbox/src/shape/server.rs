mod mcp;

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use flate2::{Compression, write::GzEncoder};
use futures_util::stream;
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use url::Url;

use super::{
    Answer, Expected, Shape,
    matching::{Client, Received, compare},
};
use crate::{
    keys::{SigningAlgorithm, SigningKeys},
    random,
};

/// How long a provider that has too many requests asks to wait.
pub const TOO_MANY_REQUESTS: Duration = Duration::from_secs(7);

/// How the token endpoint fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// It knows the refresh token no more: the documented answer.
    DeadRefreshToken,
    /// It does not know the client: the documented answer.
    WrongClient,
    /// 500.
    ServerError,
    /// 429 with a `Retry-After` of [`TOO_MANY_REQUESTS`].
    TooManyRequests,
    /// 200 with a page.
    Page,
    /// The answer breaks off.
    BrokenOff,
}

/// Where an authorization request led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// What the browser brings back.
    pub parameters: BTreeMap<String, String>,
    /// Whether it posts it.
    pub posted: bool,
}

/// A provider with the shape of a real one, on loopback.
///
/// It answers for every host of that provider: clients send it what they would send there, with
/// the real host in the `Host` header. It stops when it is dropped.
pub struct ShapeServer {
    address: SocketAddr,
    worn: Arc<Worn>,
    task: JoinHandle<()>,
}

struct Worn {
    shape: Shape,
    keys: Option<SigningKeys>,
    /// The client's id and secret: what is configured, or what the registration answers.
    client: [String; 2],
    state: Mutex<Run>,
}

#[derive(Default)]
struct Run {
    failing: Option<Failing>,
    code: String,
    nonce: Option<String>,
    challenge: Option<String>,
    redirect_uri: Option<String>,
    /// What was agreed upon with the client of an MCP server.
    mcp: mcp::Session,
    /// Names of the steps that were asked for.
    steps: Vec<String>,
    complaints: Vec<String>,
}

impl Drop for ShapeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ShapeServer {
    /// Starts on a free port of loopback.
    ///
    /// # Errors
    ///
    /// What the operating system says when there is none.
    pub async fn start(shape: Shape) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let keys = shape.openid.as_ref().map(|it| {
            let document = it.discovery.as_deref().and_then(|it| serde_json::from_str(it).ok());
            let document: Value = document.unwrap_or_default();
            let listed = document["id_token_signing_alg_values_supported"].as_array().cloned();
            let es256 = listed.is_some_and(|it| !it.contains(&json!("RS256")));
            SigningKeys::generate(if es256 {
                SigningAlgorithm::Es256
            } else {
                SigningAlgorithm::Rs256
            })
        });
        let registered = shape.registration.as_ref();
        let registered = registered.and_then(|it| serde_json::from_str(&it.answer.body).ok());
        let registered: Value = registered.unwrap_or_default();
        let client = ["client_id", "client_secret"].map(|name| {
            let own = shape.config.get(name).unwrap_or(&registered[name]);
            own.as_str().unwrap_or_default().to_owned()
        });
        let worn = Arc::new(Worn { shape, keys, client, state: Mutex::default() });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&worn));
        let task = tokio::spawn(async move {
            // Ends with the process, or when the server is dropped.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, worn, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the token endpoint fails in this way, or in none.
    pub fn fail(&self, how: Option<Failing>) {
        self.worn.run().failing = how;
    }

    /// What did not fit since this was asked last.
    #[must_use]
    pub fn take_complaints(&self) -> Vec<String> {
        std::mem::take(&mut self.worn.run().complaints)
    }

    /// Which steps were asked for since this was asked last.
    #[must_use]
    pub fn take_steps(&self) -> Vec<String> {
        std::mem::take(&mut self.worn.run().steps)
    }

    /// Sends a browser to an authorization request whose user agrees.
    #[must_use]
    pub fn visit(&self, url: &Url) -> Visit {
        let shape = &self.worn.shape;
        let mut run = self.worn.run();
        let received = Received::new(Method::GET, url.clone(), HeaderMap::new(), &[]);
        let mut misfits = Vec::new();
        let (mut callback, mut posted) = (BTreeMap::new(), false);
        if let Some(authorize) = &shape.authorize {
            if !received.is_at(&authorize.url) {
                misfits.push(format!("it does not go to {}", authorize.url));
            }
            let own = Url::parse(&authorize.url).ok();
            let own: BTreeMap<String, String> =
                own.iter().flat_map(|it| it.query_pairs().into_owned()).collect();
            for (name, value) in own.iter().chain(&authorize.query) {
                let given = received.query.get(name).map(String::as_str);
                compare("parameter", name, value, given, &mut misfits);
            }
            misfits.extend(received.repeats());
            for name in authorize.absent.iter().filter(|it| received.query.contains_key(*it)) {
                misfits.push(format!("{name} is sent, and must not be"));
            }
            let asks_for_post = received.field("response_mode") == Some("form_post");
            if authorize.form_post != asks_for_post {
                misfits.push(if authorize.form_post {
                    "response_mode=form_post is missing".into()
                } else {
                    "response_mode=form_post is sent, and must not be".into()
                });
            }
            callback.clone_from(&authorize.callback);
            posted = authorize.form_post;
        }
        let sent = |name: &str| received.query.get(name).cloned();
        if received.query.contains_key("code_challenge")
            && sent("code_challenge_method").as_deref() != Some("S256")
        {
            misfits.push("code_challenge_method is not S256".into());
        }
        run.complain("the authorization request", misfits);
        run.steps.push("authorize".into());
        run.code = format!("code-{}", random::text());
        run.nonce = sent("nonce");
        run.challenge = sent("code_challenge");
        run.redirect_uri = sent("redirect_uri");
        callback.insert("code".into(), run.code.clone());
        callback.insert("state".into(), sent("state").unwrap_or_default());
        let discovery = self.worn.discovery();
        if discovery["authorization_response_iss_parameter_supported"] == json!(true)
            && let Some(issuer) = discovery["issuer"].as_str()
        {
            callback.insert("iss".into(), issuer.into());
        }
        Visit { parameters: callback, posted }
    }
}

impl Run {
    fn complain(&mut self, about: &str, misfits: Vec<String>) {
        self.complaints.extend(misfits.into_iter().map(|it| format!("{about}: {it}")));
    }
}

impl Worn {
    fn run(&self) -> MutexGuard<'_, Run> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn discovery(&self) -> Value {
        let document = self.shape.openid.as_ref().and_then(|it| it.discovery.as_deref());
        document.and_then(|it| serde_json::from_str(it).ok()).unwrap_or_default()
    }

    fn jwks_url(&self) -> Option<String> {
        let said = self.shape.openid.as_ref().and_then(|it| it.jwks_url.clone());
        said.or_else(|| self.discovery()["jwks_uri"].as_str().map(str::to_owned))
    }

    fn discovery_url(&self) -> Option<String> {
        let said = self.shape.openid.as_ref().and_then(|it| it.discovery_url.clone());
        said.or_else(|| {
            let document = self.discovery();
            let issuer = document["issuer"].as_str()?.trim_end_matches('/').to_owned();
            Some(format!("{issuer}/.well-known/openid-configuration"))
        })
    }

    /// The steps with their names, and the methods that they have unless they say another.
    fn steps(&self) -> Vec<(String, &Expected, &'static str)> {
        let shape = &self.shape;
        let mut steps = Vec::new();
        steps.extend(shape.registration.iter().map(|it| ("registration".to_owned(), it, "POST")));
        steps.extend(shape.token.iter().map(|it| ("token".to_owned(), it, "POST")));
        steps.extend(shape.long_lived.iter().map(|it| ("long_lived".to_owned(), it, "GET")));
        steps.extend(shape.refresh.iter().map(|it| ("refresh".to_owned(), it, "POST")));
        let numbered = |name: &str, index: usize| format!("{name} {}", index + 1);
        let calls = shape.call.iter().enumerate();
        steps.extend(calls.map(|(index, it)| (numbered("call", index), it, "GET")));
        let revocations = shape.revoke.iter().enumerate();
        steps.extend(revocations.map(|(index, it)| (numbered("revoke", index), it, "POST")));
        let deregistration = shape.deregistration.iter();
        steps.extend(deregistration.map(|it| ("deregistration".to_owned(), it, "DELETE")));
        steps
    }

    fn url_of<'a>(&'a self, name: &str, step: &'a Expected) -> Option<&'a str> {
        let token = self.shape.token.as_ref().and_then(|it| it.url.as_deref());
        step.url.as_deref().or(if name == "refresh" { token } else { None })
    }

    fn answer(&self, received: &Received) -> Response<Body> {
        if self.discovery_url().is_some_and(|it| received.is_at(&it)) {
            return written(200, "application/json", &self.discovery().to_string());
        }
        if let Some(keys) = self.keys.as_ref()
            && self.jwks_url().is_some_and(|it| received.is_at(&it))
        {
            return written(200, "application/json", &keys.jwks().to_string());
        }
        let [id, secret] = &self.client;
        let client = Client { id, secret };
        let resources = self.resources(received);
        if !resources.is_empty() {
            return self.speak_mcp(&resources, received, &client);
        }
        let mut run = self.run();
        let here = self
            .steps()
            .into_iter()
            .filter(|(name, step, _)| self.url_of(name, step).is_some_and(|it| received.is_at(it)));
        let refreshes = is_refresh(received);
        let nearest = here
            .map(|(name, step, method)| {
                let misfits = step.misfits(received, method, &client);
                // Exchange and refresh share a place; what they say tells them apart.
                let other =
                    matches!(&*name, "token" | "refresh") && (name == "refresh") != refreshes;
                (name, step, misfits, other)
            })
            .min_by_key(|(_, _, misfits, other)| (*other, misfits.len()));
        let Some((name, step, mut misfits, _)) = nearest else {
            let place =
                format!("{} {}", received.method, &received.url[..url::Position::AfterPath]);
            run.complaints.push(format!("nothing is documented at {place}"));
            return written(404, "text/plain", "nothing is documented here");
        };
        if name == "token" {
            run.check_exchange(received, step, &mut misfits);
        }
        let fits = misfits.is_empty();
        run.complain(&format!("the request {name}"), misfits);
        run.steps.push(name.clone());
        let (failing, nonce) = (run.failing, run.nonce.clone());
        drop(run);
        if matches!(&*name, "token" | "refresh")
            && let Some(failing) = failing
        {
            return self.failed(failing, step);
        }
        if !fits {
            return written(400, "text/plain", "this is not the documented request");
        }
        self.documented(&step.answer, nonce.as_deref().filter(|_| name == "token"))
    }

    fn failed(&self, failing: Failing, step: &Expected) -> Response<Body> {
        let wrong_client = self.shape.wrong_client.as_ref().map(|it| &it.answer);
        match failing {
            Failing::DeadRefreshToken => match &step.dead {
                Some(dead) => self.documented(dead, None),
                None => written(400, "application/json", r#"{"error":"invalid_grant"}"#),
            },
            Failing::WrongClient => match wrong_client {
                Some(answer) => self.documented(answer, None),
                None => written(401, "application/json", r#"{"error":"invalid_client"}"#),
            },
            Failing::ServerError => written(500, "text/plain", "no"),
            Failing::TooManyRequests => {
                let mut response = written(429, "text/plain", "no");
                response.headers_mut().insert("retry-after", TOO_MANY_REQUESTS.as_secs().into());
                response
            }
            Failing::Page => written(200, "text/html", "<html><body>Maintenance</body></html>"),
            Failing::BrokenOff => {
                let parts = [Ok(Bytes::from_static(b"{")), Err(io::Error::other("broken off"))];
                let mut response = Response::new(Body::from_stream(stream::iter(parts)));
                response.headers_mut().insert("content-type", json_type());
                response
            }
        }
    }

    /// An answer as it is documented, its gaps filled.
    fn documented(&self, answer: &Answer, nonce: Option<&str>) -> Response<Body> {
        let mut body = answer.body.clone();
        while let Some((before, rest)) = body.split_once("{{") {
            let Some((gap, after)) = rest.split_once("}}") else { break };
            let value = match gap.trim() {
                "id_token" => self.id_token(nonce),
                "nonce" => nonce.unwrap_or_default().to_owned(),
                "code" => self.run().code.clone(),
                gap => match gap.strip_prefix("jwt") {
                    Some(shift) => jwt_until(&moment(&format!("now{shift}"))),
                    None => moment(gap),
                },
            };
            body = format!("{before}{value}{after}");
        }
        let mut response = written(answer.status, &answer.content_type, &body);
        if answer.gzip {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            // Writing to a vector does not fail.
            let gzip = gzip.write_all(body.as_bytes()).and_then(|()| gzip.finish());
            *response.body_mut() = Body::from(gzip.unwrap_or_default());
            response.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
        }
        for (name, value) in &answer.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    fn id_token(&self, nonce: Option<&str>) -> String {
        let (Some(keys), Some(openid)) = (&self.keys, &self.shape.openid) else {
            return String::new();
        };
        let mut claims: Map<String, Value> =
            serde_json::from_str(&openid.claims).unwrap_or_default();
        let mut missing = |name: &str, value: Value| {
            claims.entry(name.to_owned()).or_insert(value);
        };
        let discovery = self.discovery();
        missing("iss", discovery["issuer"].clone());
        missing("aud", self.client[0].as_str().into());
        missing("iat", now().into());
        missing("exp", (now() + 3600).into());
        if let Some(nonce) = nonce {
            missing("nonce", nonce.into());
        }
        let key = keys.current();
        let header = json!({"typ": "JWT", "alg": key.algorithm().as_str(), "kid": key.kid()});
        let encode = |it: &Value| URL_SAFE_NO_PAD.encode(it.to_string());
        let message = format!("{}.{}", encode(&header), encode(&Value::Object(claims)));
        let signature = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

impl Run {
    /// What every provider checks of an exchange, whether its page says so or not.
    fn check_exchange(&self, received: &Received, step: &Expected, misfits: &mut Vec<String>) {
        let code = received.field("code").or_else(|| received.field("assertion"));
        if code != Some(&self.code) {
            misfits.push("the code is not the one that was given".into());
        }
        let redirect_uri = received.field("redirect_uri");
        if redirect_uri.is_some() && redirect_uri != self.redirect_uri.as_deref() {
            misfits.push("redirect_uri is not that of the authorization request".into());
        }
        let without = step.absent.iter().any(|it| it == "code_verifier");
        if self.challenge.is_none() && received.field("code_verifier").is_some() {
            misfits.push("code_verifier is sent, and there was no code_challenge".into());
        }
        if let Some(challenge) = self.challenge.as_deref().filter(|_| !without) {
            let verifier = received.field("code_verifier").unwrap_or_default();
            let own = digest::digest(&digest::SHA256, verifier.as_bytes());
            if URL_SAFE_NO_PAD.encode(own) != challenge {
                misfits.push("code_verifier does not fit the code_challenge".into());
            }
        }
    }
}

fn is_refresh(received: &Received) -> bool {
    let grant = received.field("grant_type").unwrap_or_default();
    grant.contains("refresh_token") || received.field("refresh_token").is_some()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}

/// `now`, `now+3600`, `now-5` in Unix seconds; nothing else is known.
fn moment(gap: &str) -> String {
    let Some(shift) = gap.strip_prefix("now") else { return String::new() };
    let shift: i64 = if shift.is_empty() { 0 } else { shift.parse().unwrap_or(0) };
    now().saturating_add_signed(shift).to_string()
}

/// An access token that says by itself when it ends. Nobody but its issuer could verify it.
fn jwt_until(end: &str) -> String {
    let encode = |it: &str| URL_SAFE_NO_PAD.encode(it);
    let claims = format!(r#"{{"exp":{end},"jti":"{}"}}"#, random::text());
    format!("{}.{}.{}", encode(r#"{"alg":"HS256","typ":"JWT"}"#), encode(&claims), encode("none"))
}

fn json_type() -> HeaderValue {
    HeaderValue::from_static("application/json")
}

fn written(status: u16, content_type: &str, body: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    if let Ok(value) = content_type.parse() {
        response.headers_mut().insert("content-type", value);
    }
    response
}

async fn answer(State(worn): State<Arc<Worn>>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    // Bounded: it is a client of ours that sends, and what it sends is small.
    let Ok(body) = axum::body::to_bytes(body, 1024 * 1024).await else {
        return written(413, "text/plain", "too large");
    };
    let host = parts.headers.get("host").and_then(|it| it.to_str().ok()).unwrap_or_default();
    let path =
        parts.uri.path_and_query().map_or_else(|| Uri::default().to_string(), ToString::to_string);
    // Whatever the client meant was https.
    let Ok(url) = Url::parse(&format!("https://{host}{path}")) else {
        return written(400, "text/plain", "no such host");
    };
    worn.answer(&Received::new(parts.method, url, parts.headers, &body))
}
