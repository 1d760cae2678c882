//! Providers over TLS: the built binary trusts what the machine trusts, and nothing else.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
    task::AbortHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use crate::service::binary;

/// A certificate authority of this test, as a file of the kind that `SSL_CERT_FILE` names.
struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let this = Self { directory: tempfile::tempdir().unwrap(), issuer };
        std::fs::write(this.file(), this.issuer.pem()).unwrap();
        this
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    /// An OpenID provider of which there is nothing but its metadata, with this certificate.
    async fn provider(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> Provider {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(
            tokio_rustls::rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
        Provider::start(TlsAcceptor::from(Arc::new(config))).await
    }
}

struct Provider {
    issuer: String,
    task: AbortHandle,
}

impl Provider {
    async fn start(acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let issuer = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let metadata = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/jwks"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        })
        .to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{metadata}",
            metadata.len()
        );
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // A client that does not trust us ends the handshake.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = vec![];
                while !request.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { issuer, task: task.abort_handle() }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What `symbolon doctor` finds at a provider: the status and the sentence.
async fn finding(provider: &Provider, trusted: &Authority) -> (String, String) {
    let home = tempfile::tempdir().unwrap();
    let config = format!(
        "keyring.file = 'keyring'\ndatabase.url = 'sqlite:x.db'\n\
         http_client.allow_private_networks = true\n\
         [[providers]]\ntype = 'oidc'\n\
         [providers.config]\nissuer = '{}'\nclient_id = 'x'\nclient_secret = 'x'\n",
        provider.issuer
    );
    std::fs::write(home.path().join("symbolon.toml"), config).unwrap();
    let run = async |arguments: &[&str]| {
        Command::new(binary())
            .args(arguments)
            .current_dir(home.path())
            .env("SSL_CERT_FILE", trusted.file())
            .env_remove("SSL_CERT_DIR")
            .output()
            .await
            .unwrap()
    };
    run(&["keyring", "generate", "--file", "keyring"]).await;
    let output = run(&["doctor", "--json"]).await;
    let findings: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let found = findings.as_array().unwrap().iter().find(|it| it["name"] == "provider oidc");
    let found = found.unwrap_or_else(|| panic!("{findings}"));
    (found["status"].as_str().unwrap().to_owned(), found.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_whose_certificate_the_machine_trusts_is_spoken_to() {
    let authority = Authority::new();
    let provider = authority.provider("localhost", |_| ()).await;
    let (status, found) = finding(&provider, &authority).await;
    assert_eq!(status, "ok", "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_with_a_certificate_of_somebody_else_is_a_problem_that_says_so() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let expired = |it: &mut CertificateParams| {
        it.not_before = date_time_ymd(2020, 1, 1);
        it.not_after = date_time_ymd(2021, 1, 1);
    };
    for (what, provider) in [
        ("an unknown authority", theirs.provider("localhost", |_| ()).await),
        ("another host", ours.provider("other.test", |_| ()).await),
        ("too old", ours.provider("localhost", expired).await),
    ] {
        let (status, found) = finding(&provider, &ours).await;
        assert_eq!(status, "problem", "{what}: {found}");
        assert!(found.contains("certificate"), "{what}: {found}");
    }
}
