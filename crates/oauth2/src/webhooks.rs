//! Webhooks as [Standard Webhooks 1.0](https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md)
//! has them, over the guarded client.

use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use symbolon_domain::{
    ports::{Clock, WebhookAnswer, WebhookMessage, WebhookSendError, WebhookSender},
    secret::Secret,
    webhook::WEBHOOK_SECRET_PREFIX,
};
use url::Url;
use zeroize::Zeroizing;

use crate::http::{HttpClient, HttpRequest};

/// Posts webhooks through the guarded client.
pub struct StandardWebhooks {
    http: HttpClient,
    clock: Arc<dyn Clock>,
}

impl StandardWebhooks {
    /// A sender; sends nothing yet.
    #[must_use]
    pub fn new(http: HttpClient, clock: Arc<dyn Clock>) -> Self {
        Self { http, clock }
    }
}

#[async_trait]
impl WebhookSender for StandardWebhooks {
    fn check(&self, url: &Url) -> Result<(), WebhookSendError> {
        self.http.check(url).map_err(|error| WebhookSendError(error.to_string()))
    }

    async fn send(&self, message: &WebhookMessage) -> Result<WebhookAnswer, WebhookSendError> {
        let timestamp = message.at.timestamp().to_string();
        let signatures: Vec<_> = message
            .secrets
            .iter()
            .map(|secret| sign(secret, &message.id, &timestamp, &message.body))
            .collect::<Result<_, _>>()?;
        let body = message.body.clone().into_bytes();
        let request = HttpRequest::post(message.url.clone(), "application/json", body)
            .with_header("webhook-id", &message.id)
            .with_header("webhook-timestamp", &timestamp)
            .with_header("webhook-signature", &signatures.join(" "));
        let answer = self.http.send(request).await;
        let answer = answer.map_err(|error| WebhookSendError(error.to_string()))?;
        let retry_after = answer.retry_after(self.clock.now());
        Ok(WebhookAnswer { status: answer.status, retry_after })
    }
}

/// `v1,` and the HMAC-SHA256 of id, timestamp and body, in Base64.
fn sign(
    secret: &Secret,
    id: &str,
    timestamp: &str,
    body: &str,
) -> Result<String, WebhookSendError> {
    let key = secret.expose().strip_prefix(WEBHOOK_SECRET_PREFIX);
    let key = key.and_then(|it| STANDARD.decode(it).ok()).map(Zeroizing::new);
    let key = key.ok_or_else(|| WebhookSendError("the secret is not a webhook secret".into()))?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let mut signing = hmac::Context::with_key(&key);
    for part in [id, ".", timestamp, ".", body] {
        signing.update(part.as_bytes());
    }
    Ok(format!("v1,{}", STANDARD.encode(signing.sign())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that the reference implementations of Standard Webhooks are tested with.
    #[test]
    fn the_signature_is_that_of_the_reference_implementations() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signature =
            sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", r#"{"test": 2432232314}"#);
        assert_eq!(signature.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn what_is_no_secret_signs_nothing_and_is_not_quoted() {
        for bad in ["canary", "whsec_canary!", "whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            let error = sign(&Secret::new(bad), "i", "1", "{}").unwrap_err();
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
