//! Events arrive at a receiver of the product's, signed and in order, whatever fails and dies.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, http::HeaderMap, http::StatusCode, routing::post};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;

use crate::service::{Installation, Kind, Replica};

/// A message that was taken.
#[derive(Clone, Debug)]
struct Message {
    id: String,
    timestamp: String,
    signature: String,
    body: String,
}

impl Message {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// What a receiver does by the words of Standard Webhooks 1.0, over nothing but SHA-256.
    fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut block = [0_u8; 64];
        block[..key.len()].copy_from_slice(&key);
        let padded = |pad: u8| block.map(|it| it ^ pad);
        let text = format!("{}.{}.{}", self.id, self.timestamp, self.body);
        let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text).finalize();
        let outer = Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize();
        self.signature == format!("v1,{}", STANDARD.encode(outer))
    }
}

/// A receiver on loopback that refuses as many messages as it is told to.
struct Receiver {
    url: String,
    to_refuse: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    taken: Arc<Mutex<Vec<Message>>>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let this =
            Self { url, to_refuse: Arc::default(), refused: Arc::default(), taken: Arc::default() };
        let (to_refuse, refused) = (this.to_refuse.clone(), this.refused.clone());
        let taken = this.taken.clone();
        let take = async move |headers: HeaderMap, body: Bytes| {
            let less = |it: usize| it.checked_sub(1);
            if to_refuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
                refused.fetch_add(1, Ordering::SeqCst);
                return StatusCode::INTERNAL_SERVER_ERROR;
            }
            let header = |name: &str| headers[name].to_str().unwrap().to_owned();
            taken.lock().unwrap().push(Message {
                id: header("webhook-id"),
                timestamp: header("webhook-timestamp"),
                signature: header("webhook-signature"),
                body: String::from_utf8(body.to_vec()).unwrap(),
            });
            StatusCode::NO_CONTENT
        };
        let router = Router::new().route("/hook", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        this
    }

    fn refuse(&self, count: usize) {
        self.to_refuse.store(count, Ordering::SeqCst);
    }

    /// The messages about an identity, once there are that many.
    async fn about(&self, identity: i64, count: usize) -> Vec<Message> {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let mut taken = self.taken.lock().unwrap().clone();
            taken.retain(|it| it.json()["data"]["identity_id"] == identity);
            if taken.len() >= count {
                return taken;
            }
            assert!(Instant::now() < deadline, "only these arrived: {taken:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn link_and_unlink(replica: &Replica, provider: i64, user: &str) -> i64 {
    let body = json!({"provider_id": provider, "user_id": user, "external_id": user});
    let identity = replica.post("/v1/identities", body).await.good()["id"].as_i64().unwrap();
    let path = format!("/v1/identities/{identity}?revoke=false");
    replica.call(Method::DELETE, &path, None).await.good();
    identity
}

#[track_caller]
fn assert_link_and_unlink(messages: &[Message], secret: &str) {
    let types: Vec<_> = messages.iter().map(|it| it.json()["type"].clone()).collect();
    assert_eq!(types, ["identity.linked", "identity.unlinked"]);
    for message in messages {
        assert!(message.is_signed_with(secret), "{message:?}");
        let body = message.json();
        assert_eq!(message.id, format!("evt_{}", body["data"]["id"]));
        assert_eq!(body["timestamp"], body["data"]["at"]);
    }
}

async fn arrive(kind: Kind) {
    let installation = Installation::new(kind).await;
    let receiver = Receiver::start().await;
    let replica = installation.start().await;
    let config = json!({"issuer": "http://127.0.0.1:9", "client_id": "symbolon"});
    let provider = replica.register(config).await;
    let types = json!(["identity.linked", "identity.unlinked"]);
    let body = json!({"url": receiver.url, "types": types});
    let webhook = replica.post("/v1/webhooks", body).await.good();
    let secret = webhook["secret"].as_str().unwrap();

    receiver.refuse(2);
    let ada = link_and_unlink(&replica, provider, "ada").await;
    assert_link_and_unlink(&receiver.about(ada, 2).await, secret);
    assert_eq!(receiver.refused.load(Ordering::SeqCst), 2);

    // The receiver is down when the next ones happen, and the service dies.
    receiver.refuse(usize::MAX);
    let grace = link_and_unlink(&replica, provider, "grace").await;
    replica.kill().await;
    receiver.refuse(0);
    let replica = installation.start().await;
    assert_link_and_unlink(&receiver.about(grace, 2).await, secret);

    // What arrived is what the event log has.
    let path = format!("/v1/events?identity_id={grace}");
    let events = replica.get(&path).await.good()["items"].clone();
    let told = receiver.about(grace, 2).await;
    let told: Vec<_> = told.iter().map(|it| it.json()["data"].clone()).collect();
    assert_eq!(events, Value::Array(told));
    replica.stop().await;
}

#[tokio::test]
async fn a_link_and_an_unlink_arrive_signed_and_in_order_with_sqlite() {
    arrive(Kind::Sqlite).await;
}

#[tokio::test]
async fn a_link_and_an_unlink_arrive_signed_and_in_order_with_postgresql() {
    arrive(Kind::Postgres).await;
}
