//! TLS to PostgreSQL: whenever it is spoken, the server's certificate is verified.

use std::path::Path;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use rustls_platform_verifier::ConfigVerifierExt as _;

use crate::settings::OpenError;

/// Trusts the system's certificates, or those of a file in their place.
pub(crate) fn config(root_certificate: Option<&Path>) -> Result<ClientConfig, OpenError> {
    // Another part of the process may have chosen it first; it is the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Some(path) = root_certificate else {
        return ClientConfig::with_platform_verifier()
            .map_err(|error| OpenError::Malformed(format!("TLS cannot be set up: {error}")));
    };
    let bad = |problem: String| OpenError::Certificate { path: path.to_owned(), problem };
    let mut roots = RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?
    {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("it holds no certificate".to_owned()));
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}
