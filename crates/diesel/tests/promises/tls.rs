//! TLS to PostgreSQL, with a server that takes nothing else.

use std::{path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use symbolon_diesel::{Database, DatabaseSettings, OpenError};
use symbolon_domain::testing::TestSealer;
use symbolon_test_postgres::{Cluster, ServerTls, TestDatabase};
use tempfile::TempDir;

/// A certificate authority, in a file.
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

    fn certify(&self, host: &str) -> ServerTls {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        ServerTls { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

async fn open(url: String, root: Option<PathBuf>) -> Result<Database, OpenError> {
    let mut settings = DatabaseSettings::new(url);
    settings.tls_root_certificate = root;
    symbolon_diesel::open(&settings, Arc::new(TestSealer::default())).await
}

/// The error and what lies under it, in one text.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(it) = source {
        text = format!("{text}: {it}");
        source = it.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_certificate_is_trusted_is_spoken_to_in_tls() {
    let authority = Authority::new();
    let cluster = Cluster::start_with_tls(&authority.certify("localhost")).unwrap();
    let url = |mode| format!("postgres://symbolon@localhost:{}/postgres?{mode}", cluster.port());
    for mode in ["sslmode=require", "sslmode=verify-full", "sslmode=prefer", ""] {
        let database = open(url(mode), Some(authority.file())).await.unwrap();
        database.migrate().await.unwrap();
        assert_eq!(database.pending_migrations().await.unwrap(), [""; 0]);
        database.clock().await.unwrap();
    }
    // The server takes nothing else, so the above was TLS.
    let Err(refused) = open(url("sslmode=disable"), None).await else { panic!("taken") };
    assert!(matches!(refused, OpenError::Unreachable(_)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_proves_nothing_is_refused_and_the_reason_told() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let cluster = Cluster::start_with_tls(&ours.certify("localhost")).unwrap();
    let port = cluster.port();
    for (what, host, root) in [
        ("another authority", "localhost", theirs.file()),
        ("another host", "127.0.0.1", ours.file()),
    ] {
        let url = format!("postgres://symbolon:canary-5e1f@{host}:{port}/postgres?sslmode=require");
        let Err(refused) = open(url, Some(root)).await else { panic!("{what}: taken") };
        let text = whole(&refused);
        assert!(text.contains("certificate"), "{what}: {text}");
        assert!(!text.contains("canary"), "{what}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_where_tls_is_required() {
    let database = TestDatabase::create().await.unwrap();
    let url = format!("{}?sslmode=require", database.url());
    let authority = Authority::new();
    let Err(refused) = open(url, Some(authority.file())).await else { panic!("taken") };
    let text = whole(&refused);
    assert!(text.contains("TLS"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reason_for_not_opening_shows_the_password() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for url in [
        format!("postgres://user:canary-5e1f@{closed}/x?sslmode=disable"),
        "postgres://user:canary-5e1f@no-such-host.invalid/x?sslmode=disable".to_owned(),
        "postgres://user:canary-5e1f@127.0.0.1:99999/x".to_owned(),
        "postgres://user:canary-5e1f@127.0.0.1/x?sslmode=canary-5e1f".to_owned(),
        "postgres://user:canary-5e1f@127.0.0.1/x?nonsense=canary-5e1f".to_owned(),
        "mysql://user:canary-5e1f@127.0.0.1/x".to_owned(),
    ] {
        let Err(refused) = open(url.clone(), None).await else { panic!("{url}: opened") };
        let text = format!("{} {refused:?}", whole(&refused));
        assert!(!text.contains("canary"), "{url}: {text}");
    }
}
