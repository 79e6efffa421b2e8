//! The cluster's certificate authority: makes itself, and certificates for nodes and clients.
//!
//! Keys are ECDSA P-256. What a certificate says is decided here alone: of a certificate request
//! only the public key is taken. The authority keeps nothing on disk; its key lives sealed in the
//! replicated state, its certificate in every identity.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::NetError;
use super::subject::{SUFFIX, Subject};
use crate::limits::{ADDRESS_BYTES_MAX, IDENTITY_FILE_BYTES_MAX};
use crate::types::{ClusterId, Name, NodeId};

/// A day; certificates are valid from a day ago on, so that clocks may differ a little.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Life of the CA certificate.
const AUTHORITY_LIFE: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
/// Life of a node's or client's certificate.
const LEAF_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Most hosts in one node certificate.
const HOSTS_MAX: usize = 16;

/// A fresh private key of a node, with the request for its certificate.
pub struct NodeKey {
    key: KeyPair,
    request_der: Vec<u8>,
}

impl NodeKey {
    /// Draws a key and signs a PKCS#10 request with it.
    pub fn generate() -> Result<Self, NetError> {
        NodeKey::of(KeyPair::generate().map_err(key_material)?)
    }

    /// The key that a node has already (PKCS#8 DER), with a new request for a certificate.
    pub(super) fn from_der(key_der: &[u8]) -> Result<Self, NetError> {
        NodeKey::of(KeyPair::try_from(key_der).map_err(key_material)?)
    }

    fn of(key: KeyPair) -> Result<Self, NetError> {
        let mut params = CertificateParams::default();
        // The authority decides what the certificate says; the request proves the key.
        params.distinguished_name = common_name("ratoon node");
        let request = params.serialize_request(&key).map_err(key_material)?;
        Ok(NodeKey { key, request_der: request.der().to_vec() })
    }

    /// The request, DER, for `CertificateAuthority::issue_node`.
    pub fn request_der(&self) -> &[u8] {
        &self.request_der
    }

    /// The private key, PKCS#8 DER. Secret.
    pub fn key_der(&self) -> &[u8] {
        self.key.serialized_der()
    }
}

/// The one authority both sides of every link trust.
pub struct CertificateAuthority {
    cluster: ClusterId,
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl CertificateAuthority {
    /// A new authority for a new cluster.
    pub fn generate(cluster: ClusterId) -> Result<Self, NetError> {
        let key = KeyPair::generate().map_err(key_material)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("ratoon cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, Validity::starting_now(AUTHORITY_LIFE));
        let certificate = params.self_signed(&key).map_err(key_material)?;
        Ok(CertificateAuthority { cluster, certificate: certificate.der().clone(), key })
    }

    /// The authority with this certificate and PKCS#8 key, both DER, which must fit each other.
    pub fn from_der(
        cluster: ClusterId,
        certificate_der: &[u8],
        key_der: &[u8],
    ) -> Result<Self, NetError> {
        let bad = |problem: &str| NetError::KeyMaterial(problem.to_owned());
        let key = KeyPair::try_from(key_der).map_err(key_material)?;
        let (_, certificate) = X509Certificate::from_der(certificate_der)
            .map_err(|_| bad("the CA certificate cannot be parsed"))?;
        if !certificate.is_ca() {
            return Err(bad("the certificate is not one of an authority"));
        }
        if certificate.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(bad("the CA key belongs to another certificate"));
        }
        let certificate = CertificateDer::from(certificate_der.to_vec());
        Ok(CertificateAuthority { cluster, certificate, key })
    }

    /// The CA certificate.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// The private key, PKCS#8 DER. Secret: leaves memory only sealed.
    pub fn key_der(&self) -> &[u8] {
        self.key.serialized_der()
    }

    /// BLAKE3 of the certificate's DER bytes, as join tokens carry it.
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.certificate)
    }

    /// A certificate (DER) for a node, for the key of its PKCS#10 request. `hosts`, DNS names or
    /// IP addresses without port, are where clients reach its API.
    pub fn issue_node(
        &self,
        node: NodeId,
        hosts: &[String],
        request_der: &[u8],
    ) -> Result<Vec<u8>, NetError> {
        self.issue_node_valid(node, hosts, request_der, Validity::starting_now(LEAF_LIFE))
    }

    /// A certificate and a fresh key (PKCS#8) for a client of the API, both PEM.
    pub fn issue_client(&self, name: &str) -> Result<(String, String), NetError> {
        let name = Name::parse("client", name)
            .map_err(|failure| NetError::RequestRefused(failure.message))?;
        let key = KeyPair::generate().map_err(key_material)?;
        let subject = Subject::Client { cluster: self.cluster, name };
        let mut params = leaf_params(&subject, Validity::starting_now(LEAF_LIFE))?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let der = self.sign(&params, &key)?;
        Ok((pem("CERTIFICATE", &der), pem("PRIVATE KEY", key.serialized_der())))
    }

    /// As `issue_node`, with the certificate's life as an argument.
    pub(super) fn issue_node_valid(
        &self,
        node: NodeId,
        hosts: &[String],
        request_der: &[u8],
        validity: Validity,
    ) -> Result<Vec<u8>, NetError> {
        if request_der.len() > IDENTITY_FILE_BYTES_MAX {
            return Err(NetError::RequestRefused(format!("{} bytes", request_der.len())));
        }
        // Checks the request's signature: whoever asks holds the private key.
        let request = CertificateSigningRequestParams::from_der(&request_der.into())
            .map_err(|error| NetError::RequestRefused(error.to_string()))?;
        if request.public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(NetError::RequestRefused("the key is not ECDSA P-256".to_owned()));
        }
        let mut params = leaf_params(&Subject::Node { cluster: self.cluster, node }, validity)?;
        params.subject_alt_names.extend(host_names(hosts)?);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params, &request.public_key)
    }

    fn sign(
        &self,
        params: &CertificateParams,
        public_key: &impl PublicKeyData,
    ) -> Result<Vec<u8>, NetError> {
        let issuer =
            Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(key_material)?;
        let certificate = params.signed_by(public_key, &issuer).map_err(key_material)?;
        Ok(certificate.der().to_vec())
    }
}

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub(super) struct Validity {
    /// Not before.
    pub from: SystemTime,
    /// Not after.
    pub until: SystemTime,
}

impl Validity {
    fn starting_now(life: Duration) -> Self {
        let now = SystemTime::now();
        Validity { from: now - DAY, until: now + life }
    }
}

/// BLAKE3 of a certificate's DER bytes.
pub(super) fn fingerprint(certificate_der: &[u8]) -> [u8; 32] {
    *blake3::hash(certificate_der).as_bytes()
}

/// A certificate, DER, as PEM text.
pub fn certificate_pem(der: &[u8]) -> String {
    pem("CERTIFICATE", der)
}

/// PEM text of `der`, in lines of 64 characters.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let encoded = BASE64.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn key_material(error: rcgen::Error) -> NetError {
    NetError::KeyMaterial(error.to_string())
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn set_validity(params: &mut CertificateParams, validity: Validity) {
    params.not_before = validity.from.into();
    params.not_after = validity.until.into();
}

fn leaf_params(subject: &Subject, validity: Validity) -> Result<CertificateParams, NetError> {
    let mut params = CertificateParams::new(vec![subject.dns_name()]).map_err(key_material)?;
    params.distinguished_name = common_name(&format!("ratoon {subject}"));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, validity);
    Ok(params)
}

/// Alternative names for hosts. A host that looks like a subject would let a joiner speak for
/// another node, so it is refused, as is anything that is no host name.
fn host_names(hosts: &[String]) -> Result<Vec<SanType>, NetError> {
    if hosts.len() > HOSTS_MAX {
        return Err(NetError::RequestRefused(format!(
            "{} hosts, at most {HOSTS_MAX}",
            hosts.len()
        )));
    }
    let mut names = Vec::new();
    for host in hosts {
        let refused = |problem: &str| {
            let shown: String = host.chars().take(80).collect();
            NetError::RequestRefused(format!("host {shown:?} {problem}"))
        };
        if let Ok(address) = host.parse::<IpAddr>() {
            names.push(SanType::IpAddress(address));
            continue;
        }
        if host.is_empty() || host.len() > ADDRESS_BYTES_MAX {
            return Err(refused("is empty or too long"));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !host.chars().all(allowed) {
            return Err(refused("is neither a DNS name nor an IP address"));
        }
        if format!(".{}", host.to_ascii_lowercase()).trim_end_matches('.').ends_with(SUFFIX) {
            return Err(refused("is reserved for the names of nodes and clients"));
        }
        names.push(SanType::DnsName(host.as_str().try_into().map_err(key_material)?));
    }
    names.dedup();
    Ok(names)
}
