use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::Response,
    routing::{MethodRouter, get, post},
};
use tokio::sync::watch;
use url::Url;

use crate::{
    answer::Answer,
    authorization, client_authentication,
    connection::Scissors,
    control,
    endpoint::Endpoint,
    fault::Fault,
    faults::Suffered,
    page,
    parameters::Parameters,
    provider::{Provider, Received},
    random::fingerprint,
    records::{Arrival, Outcome, Visit},
    token,
    userinfo::bearer,
};

/// No honest request is longer, bytes.
const LONGEST_BODY: usize = 64 * 1024;

/// Everything that the sandbox serves.
pub(crate) fn router(provider: Arc<Provider>) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(serve(Endpoint::Discovery)))
        .route("/jwks", get(serve(Endpoint::Jwks)))
        .route("/authorize", both(Endpoint::Authorize))
        .route("/token", post(serve(Endpoint::Token)))
        .route("/userinfo", both(Endpoint::Userinfo))
        .route("/revoke", post(serve(Endpoint::Revoke)))
        .route("/introspect", post(serve(Endpoint::Introspect)))
        .route("/", get(control::home))
        .route("/avatars/{number}", get(control::avatar))
        .nest("/sandbox", control::router())
        .fallback(nothing_here)
        .layer(middleware::from_fn(only_this_machine))
        .with_state(provider)
}

fn both(endpoint: Endpoint) -> MethodRouter<Arc<Provider>> {
    get(serve(endpoint)).post(serve(endpoint))
}

async fn nothing_here() -> Response {
    let why = "The sandbox has no page by this address.";
    Answer::page(StatusCode::NOT_FOUND, page::problem("Nothing here", why)).into_response()
}

/// Refuses requests that name another host, so that no page of the web reaches the sandbox by a
/// name that was made to point to this machine (DNS rebinding).
async fn only_this_machine(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|it| it.to_str().ok());
    let url = host.and_then(|it| Url::parse(&format!("http://{it}/")).ok());
    let here = url.is_some_and(|url| match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    });
    if here {
        return next.run(request).await;
    }
    let why = "the sandbox answers on 127.0.0.1, [::1] and localhost only\n";
    Answer::text(StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

type Answering = std::pin::Pin<Box<dyn Future<Output = Response> + Send>>;

fn serve(
    endpoint: Endpoint,
) -> impl Fn(State<Arc<Provider>>, ConnectInfo<Scissors>, Request) -> Answering + Clone + Send {
    move |State(provider), ConnectInfo(scissors), request| {
        Box::pin(answer(provider, endpoint, scissors, request))
    }
}

/// One request to the provider, with the faults it meets.
async fn answer(
    provider: Arc<Provider>,
    endpoint: Endpoint,
    scissors: Scissors,
    request: Request,
) -> Response {
    let received = match read(endpoint, request).await {
        Ok(received) => received,
        Err(refusal) => return refusal.into_response(),
    };
    // Before the fault is taken, so that no clearing is missed.
    let mut clearings = provider.faults.clearings();
    let suffered = provider.faults.take(received.endpoint);
    let visit = provider.recorder.arrive(arrival(&provider, &received, &suffered));

    if suffered.fault == Some(Fault::Hang) {
        // In this future, so that it ends when the client leaves.
        let mut stopping = provider.stopping.subscribe();
        tokio::select! {
            _ = clearings.changed() => {}
            () = stopped(&mut stopping) => {}
        }
        return cut(&scissors, visit);
    }
    if suffered.fault == Some(Fault::DropBefore) {
        wait(&provider, suffered.delay_ms).await;
        return cut(&scissors, visit);
    }
    // In a task of its own: as at a real provider, what has arrived is processed, whether or not
    // the client waits for the answer.
    let task = tokio::spawn(async move {
        wait(&provider, suffered.delay_ms).await;
        let answer = process(&provider, &received, suffered.fault.as_ref());
        visit.processed(answer.committed, answer.issued.clone());
        wait(&provider, suffered.delay_answer_ms).await;
        if suffered.fault == Some(Fault::DropAfter) {
            return cut(&scissors, visit);
        }
        let (status, error) = (answer.status.as_u16(), answer.error.clone());
        visit.end(Outcome::Answered { status, error });
        answer.into_response()
    });
    task.await.unwrap_or_else(|_| {
        Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the sandbox itself has failed\n")
            .into_response()
    })
}

/// What a request is answered, faults in between included.
pub(crate) fn process(provider: &Provider, received: &Received, fault: Option<&Fault>) -> Answer {
    if let Some(answer) = fault.and_then(Answer::instead_of_processing) {
        return answer;
    }
    let mut answer = provider.process(received, fault);
    if let Some(fault) = fault {
        answer.spoil(fault);
    }
    answer
}

async fn read(endpoint: Endpoint, request: Request) -> Result<Received, Answer> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, LONGEST_BODY).await;
    let body = body.map_err(|_| Answer::empty(StatusCode::PAYLOAD_TOO_LARGE))?;
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    let is_form = media_type.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded");
    let form = if is_form { Parameters::parse(&body) } else { Parameters::default() };
    let endpoint = match endpoint {
        Endpoint::Authorize => authorization::endpoint(&parts.method, &form),
        Endpoint::Token => token::endpoint(&form),
        other => other,
    };
    let query = Parameters::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let (method, headers) = (parts.method, parts.headers);
    Ok(Received { endpoint, method, headers, query, form, is_form })
}

/// What is written down of a request before anything is done.
pub(crate) fn arrival(provider: &Provider, received: &Received, suffered: &Suffered) -> Arrival {
    let mut presented = BTreeMap::new();
    for name in ["code", "refresh_token", "token"] {
        if let Some(secret) = received.form.get(name) {
            presented.insert(name, fingerprint(secret));
        }
    }
    if let Some(secret) = bearer(&received.headers) {
        presented.insert("access_token", fingerprint(secret));
    }
    let slow = suffered.delay_ms.map(|_| "delay");
    let slow_answer = suffered.delay_answer_ms.map(|_| "delay_answer");
    let fault = suffered.fault.as_ref().map(Fault::kind);
    Arrival {
        at_ms: u64::try_from(provider.clock.now().as_millis()).unwrap_or(u64::MAX),
        method: received.method.to_string(),
        endpoint: received.endpoint,
        client_id: client_authentication::named(received),
        presented,
        faults: slow.into_iter().chain(fault).chain(slow_answer).collect(),
    }
}

/// Ends a request without an answer.
fn cut(scissors: &Scissors, visit: Visit) -> Response {
    scissors.cut();
    visit.end(Outcome::Cut);
    // Never seen by anybody.
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn wait(provider: &Provider, delay_ms: Option<u64>) {
    let Some(delay_ms) = delay_ms else { return };
    let mut stopping = provider.stopping.subscribe();
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(delay_ms)) => {}
        () = stopped(&mut stopping) => {}
    }
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the provider is gone, which is as good.
    let _ = stopping.wait_for(|it| *it).await;
}
