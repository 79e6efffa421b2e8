//! TLS of node links and of the join probe: who is let in, and why someone is not.
//!
//! TLS 1.3 only, both sides prove themselves, no session is resumed (a resumed one would not be
//! checked again). The verifiers first read whom the certificate speaks for, so that a mix-up of
//! clusters is named as one, then have webpki check chain, time and purpose. Everything a verifier
//! finds is kept as a `Verdict`, because TLS itself passes on little more than a number.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, CipherSuite, DigitallySignedStruct, DistinguishedName, OtherError,
    RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::NetError;
use super::authority::fingerprint;
use super::identity::Identity;
use super::subject::{Subject, parse_subject};
use crate::types::{ClusterId, NodeId};

/// What a verifier found, for whoever drives the handshake.
#[derive(Clone, Default, Debug)]
pub(super) struct Verdict(Arc<Mutex<Option<NetError>>>);

impl Verdict {
    /// Takes the refusal, if there was one.
    pub fn take(&self) -> Option<NetError> {
        self.0.lock().expect("no code panics while it holds this lock").take()
    }

    /// Keeps the refusal and makes of it the error TLS wants; its text travels to the other side.
    fn refuse(&self, error: NetError) -> rustls::Error {
        let text = Refusal(error.to_string());
        *self.0.lock().expect("no code panics while it holds this lock") = Some(error);
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(text))))
    }
}

/// The text of a refusal. rustls prints errors of applications by Debug, so that both forms are
/// the sentence itself.
#[derive(Clone)]
struct Refusal(String);

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// What all handshakes of one endpoint share.
#[derive(Clone)]
pub(super) struct Credentials {
    cluster: ClusterId,
    provider: Arc<CryptoProvider>,
    certified: Arc<SingleCertAndKey>,
    server_verifier: Arc<WebPkiServerVerifier>,
    client_verifier: Arc<dyn ClientCertVerifier>,
}

impl Credentials {
    pub fn new(identity: &Identity) -> Result<Self, NetError> {
        let provider = Arc::new(provider());
        let chain = vec![CertificateDer::from(identity.certificate_der().to_vec())];
        let key = PrivatePkcs8KeyDer::from(identity.key_der().to_vec());
        let certified =
            CertifiedKey::from_der(chain, key.into(), &provider).map_err(key_material)?;
        let roots = roots(identity.ca_certificate_der())?;
        let server_verifier = server_verifier(roots.clone(), provider.clone())?;
        let client_verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| NetError::KeyMaterial(error.to_string()))?;
        Ok(Credentials {
            cluster: identity.cluster(),
            provider,
            certified: Arc::new(SingleCertAndKey::from(certified)),
            server_verifier,
            client_verifier,
        })
    }

    /// For dialling `expected`.
    pub fn client_config(
        &self,
        alpn: &[u8],
        expected: NodeId,
        verdict: Verdict,
    ) -> Result<rustls::ClientConfig, NetError> {
        let verifier = Arc::new(self.verifier(Some(expected), verdict));
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(key_material)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(self.certified.clone());
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// For accepting any node of the cluster.
    pub fn server_config(
        &self,
        alpn: &[u8],
        verdict: Verdict,
    ) -> Result<rustls::ServerConfig, NetError> {
        let verifier = Arc::new(self.verifier(None, verdict));
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(key_material)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.certified.clone());
        config.alpn_protocols = vec![alpn.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.max_early_data_size = 0;
        Ok(config)
    }

    fn verifier(&self, expected: Option<NodeId>, verdict: Verdict) -> NodeVerifier {
        NodeVerifier {
            cluster: self.cluster,
            expected,
            server: self.server_verifier.clone(),
            client: self.client_verifier.clone(),
            verdict,
        }
    }
}

/// Lets in nodes of one cluster; as a dialler, one node only.
#[derive(Debug)]
struct NodeVerifier {
    cluster: ClusterId,
    expected: Option<NodeId>,
    server: Arc<WebPkiServerVerifier>,
    client: Arc<dyn ClientCertVerifier>,
    verdict: Verdict,
}

impl NodeVerifier {
    /// Whom the certificate speaks for, if that could be let in at all.
    fn judge(&self, leaf: &CertificateDer<'_>) -> Result<Subject, NetError> {
        let subject = parse_subject(leaf)?;
        if subject.cluster() != self.cluster {
            return Err(NetError::WrongCluster {
                subject: subject.to_string(),
                theirs: subject.cluster(),
                ours: self.cluster,
            });
        }
        match (&subject, self.expected) {
            (Subject::Client { name, .. }, _) => Err(NetError::NotANode(name.to_string())),
            (Subject::Node { node, .. }, Some(expected)) if *node != expected => {
                Err(NetError::WrongNode { expected, found: *node })
            }
            (Subject::Node { .. }, _) => Ok(subject),
        }
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let subject = self.judge(leaf).map_err(|error| self.verdict.refuse(error))?;
        self.server
            .verify_server_cert(leaf, intermediates, server_name, ocsp_response, now)
            .map_err(|error| self.verdict.refuse(untrusted(subject.to_string(), &error)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.server.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.server.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.server.supported_verify_schemes()
    }
}

impl ClientCertVerifier for NodeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Diallers have one certificate; hints would only tell strangers who we are.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let subject = self.judge(leaf).map_err(|error| self.verdict.refuse(error))?;
        self.client
            .verify_client_cert(leaf, intermediates, now)
            .map_err(|error| self.verdict.refuse(untrusted(subject.to_string(), &error)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.client.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.client.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.client.supported_verify_schemes()
    }
}

/// For a joiner, who knows of the cluster only the fingerprint of its CA certificate: finds that
/// certificate in the presented chain and verifies the chain against it.
#[derive(Debug)]
pub(super) struct FingerprintVerifier {
    endpoint: String,
    ca_fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
    verdict: Verdict,
    found: Arc<Mutex<Option<Vec<u8>>>>,
}

impl FingerprintVerifier {
    /// A verifier for the API at `endpoint`.
    pub fn new(endpoint: &str, ca_fingerprint: [u8; 32], verdict: Verdict) -> Self {
        FingerprintVerifier {
            endpoint: endpoint.to_owned(),
            ca_fingerprint,
            provider: Arc::new(provider()),
            verdict,
            found: Arc::default(),
        }
    }

    /// Where the CA certificate (DER) will be, once a handshake has succeeded.
    pub fn found(&self) -> Arc<Mutex<Option<Vec<u8>>>> {
        self.found.clone()
    }

    /// A client configuration that presents nothing and checks with this verifier.
    pub fn into_config(self) -> Result<rustls::ClientConfig, NetError> {
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(key_material)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<Vec<u8>, NetError> {
        let ca = rest
            .iter()
            .find(|certificate| fingerprint(certificate) == self.ca_fingerprint)
            .ok_or_else(|| NetError::FingerprintMismatch { endpoint: self.endpoint.clone() })?;
        let subject = parse_subject(leaf)?;
        if let Subject::Client { name, .. } = &subject {
            return Err(NetError::NotANode(name.to_string()));
        }
        server_verifier(roots(ca)?, self.provider.clone())?
            .verify_server_cert(leaf, rest, server_name, &[], now)
            .map_err(|error| untrusted(subject.to_string(), &error))?;
        Ok(ca.to_vec())
    }
}

impl ServerCertVerifier for FingerprintVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = self
            .check(leaf, intermediates, server_name, now)
            .map_err(|error| self.verdict.refuse(error))?;
        *self.found.lock().expect("no code panics while it holds this lock") = Some(ca);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, leaf, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether an identity's parts belong together: certificate to key, certificate to CA. Judged at
/// the certificate's own time, because an expired identity is whole, only expired.
pub(super) fn check_own(identity: &Identity) -> Result<(), NetError> {
    Credentials::new(identity)?;
    let subject = Subject::Node { cluster: identity.cluster(), node: identity.node() };
    let name = ServerName::try_from(subject.dns_name())
        .map_err(|error| NetError::KeyMaterial(error.to_string()))?;
    let leaf = CertificateDer::from(identity.certificate_der());
    let (_, parsed) = X509Certificate::from_der(&leaf)
        .map_err(|_| NetError::CertificateStrange("it cannot be parsed".to_owned()))?;
    let valid_from = u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or(0);
    let then = UnixTime::since_unix_epoch(Duration::from_secs(valid_from));
    server_verifier(roots(identity.ca_certificate_der())?, Arc::new(provider()))?
        .verify_server_cert(&leaf, &[], &name, &[], then)
        .map_err(|error| untrusted(subject.to_string(), &error))?;
    Ok(())
}

/// AES-128-GCM first: it protects as well as anything here and costs bulk transfers the least.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

fn roots(ca_certificate_der: &[u8]) -> Result<Arc<RootCertStore>, NetError> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca_certificate_der.to_vec())).map_err(key_material)?;
    Ok(Arc::new(roots))
}

fn server_verifier(
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, NetError> {
    WebPkiServerVerifier::builder_with_provider(roots, provider)
        .build()
        .map_err(|error| NetError::KeyMaterial(error.to_string()))
}

fn key_material(error: rustls::Error) -> NetError {
    NetError::KeyMaterial(error.to_string())
}

fn untrusted(subject: String, error: &rustls::Error) -> NetError {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    match error {
        rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
        ) => NetError::CertificateExpired { subject },
        other => NetError::CertificateUntrusted { subject, problem: other.to_string() },
    }
}
