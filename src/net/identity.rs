//! Who this node is: its certificate and key, the CA it trusts, and the cluster secret, on disk.
//!
//! A directory (mode 0700) of small files (mode 0600), written once when the machine is enrolled and
//! appearing all at once by one rename. Of them only the certificate is ever replaced, by one for the
//! same key and node that names other hosts. Node and cluster id are not written apart: the
//! certificate says them.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use data_encoding::HEXLOWER;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::authority::{NodeKey, fingerprint, pem};
use super::subject::{Subject, certified_hosts, parse_subject};
use super::{NetError, tls};
use crate::fault::{self, Point};
use crate::limits::IDENTITY_FILE_BYTES_MAX;
use crate::types::{ClusterId, NodeId};

const CA_FILE: &str = "ca.pem";
const CERTIFICATE_FILE: &str = "node.pem";
const KEY_FILE: &str = "node.key.pem";
const SECRET_FILE: &str = "cluster-secret";
/// First word of the secret's file: the format of the whole directory.
const FORMAT: &str = "ratoon-identity-1";

/// Who this node is, with the proof of it.
#[derive(Clone)]
pub struct Identity {
    cluster: ClusterId,
    node: NodeId,
    ca_certificate_der: Vec<u8>,
    certificate_der: Vec<u8>,
    key_der: Vec<u8>,
    cluster_secret: [u8; 32],
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys must reach no log.
        write!(f, "Identity(node {} of cluster {})", self.node, self.cluster)
    }
}

impl Identity {
    /// Puts an identity together. The certificate must be a node's, signed by the CA, for this key.
    pub fn new(
        ca_certificate_der: &[u8],
        certificate_der: &[u8],
        key: &NodeKey,
        cluster_secret: [u8; 32],
    ) -> Result<Self, NetError> {
        Identity::assemble(
            ca_certificate_der.to_vec(),
            certificate_der.to_vec(),
            key.key_der().to_vec(),
            cluster_secret,
        )
    }

    fn assemble(
        ca_certificate_der: Vec<u8>,
        certificate_der: Vec<u8>,
        key_der: Vec<u8>,
        cluster_secret: [u8; 32],
    ) -> Result<Self, NetError> {
        let (cluster, node) = match parse_subject(&certificate_der)? {
            Subject::Node { cluster, node } => (cluster, node),
            Subject::Client { name, .. } => return Err(NetError::NotANode(name.to_string())),
        };
        let identity = Identity {
            cluster,
            node,
            ca_certificate_der,
            certificate_der,
            key_der,
            cluster_secret,
        };
        tls::check_own(&identity)?;
        Ok(identity)
    }

    /// An identity whose parts need not fit, for tests of those who must refuse it.
    #[cfg(test)]
    pub(super) fn unchecked(
        cluster: ClusterId,
        ca_certificate_der: &[u8],
        certificate_der: &[u8],
        key_der: &[u8],
    ) -> Self {
        Identity {
            cluster,
            node: NodeId(1),
            ca_certificate_der: ca_certificate_der.to_vec(),
            certificate_der: certificate_der.to_vec(),
            key_der: key_der.to_vec(),
            cluster_secret: [0; 32],
        }
    }

    /// Writes the identity to `directory` (DATA/identity), which must not exist yet. After a crash
    /// the directory is either complete or absent.
    pub fn create(&self, directory: &Path) -> Result<(), NetError> {
        if fs::symlink_metadata(directory).is_ok() {
            return Err(NetError::IdentityExists { path: directory.to_owned() });
        }
        let staged = directory.with_extension("partial");
        remove_leftover(&staged)?;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&staged)
            .map_err(|error| NetError::io(format!("create {}", staged.display()), error))?;
        fault::point(Point::IdentityDirectoryMade);
        for (name, text) in [
            (CA_FILE, self.ca_pem()),
            (CERTIFICATE_FILE, pem("CERTIFICATE", &self.certificate_der)),
            (KEY_FILE, self.key_pem()),
            (SECRET_FILE, format!("{FORMAT} {}\n", HEXLOWER.encode(&self.cluster_secret))),
        ] {
            write_file(&staged.join(name), &text)?;
            fault::point(Point::IdentityFileWritten);
        }
        sync_directory(&staged)?;
        fault::point(Point::IdentityStaged);
        fs::rename(&staged, directory)
            .map_err(|error| NetError::io(format!("rename to {}", directory.display()), error))?;
        fault::point(Point::IdentityNamed);
        sync_directory(directory.parent().unwrap_or(Path::new(".")))
    }

    /// Reads the identity in `directory`. Refuses files that others may read, and files that do
    /// not fit each other. Does not judge whether the certificate has expired: its peers do.
    pub fn load(directory: &Path) -> Result<Self, NetError> {
        check_mode(directory, true)?;
        let ca_certificate_der = read_pem::<CertificateDer<'static>>(directory, CA_FILE)?;
        let certificate_der = read_pem::<CertificateDer<'static>>(directory, CERTIFICATE_FILE)?;
        let key_der = read_pem::<PrivatePkcs8KeyDer<'static>>(directory, KEY_FILE)?;
        let cluster_secret = read_secret(&directory.join(SECRET_FILE))?;
        Identity::assemble(
            ca_certificate_der.to_vec(),
            certificate_der.to_vec(),
            key_der.secret_pkcs8_der().to_vec(),
            cluster_secret,
        )
        .map_err(|error| NetError::IdentityDamaged {
            path: directory.to_owned(),
            problem: error.to_string(),
        })
    }

    /// Those of `hosts` (DNS names or IP addresses without port) that the certificate does not name,
    /// so that clients would not trust the node there.
    pub fn hosts_missing(&self, hosts: &[String]) -> Result<Vec<String>, NetError> {
        let certified = certified_hosts(&self.certificate_der)?;
        // Addresses have several spellings, and the certificate knows one.
        let plain = |host: &String| match host.parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => host.to_ascii_lowercase(),
        };
        Ok(hosts.iter().filter(|host| !certified.contains(&plain(host))).cloned().collect())
    }

    /// A request (PKCS#10 DER) for another certificate for the key it has.
    pub fn certificate_request(&self) -> Result<Vec<u8>, NetError> {
        Ok(NodeKey::from_der(&self.key_der)?.request_der().to_vec())
    }

    /// The same identity under another certificate, which must be the same node's, for the same key
    /// and of the same authority. `store_certificate` makes it last.
    pub fn with_certificate(&self, certificate_der: &[u8]) -> Result<Self, NetError> {
        let renewed = Identity::assemble(
            self.ca_certificate_der.clone(),
            certificate_der.to_vec(),
            self.key_der.clone(),
            self.cluster_secret,
        )?;
        if (renewed.cluster, renewed.node) != (self.cluster, self.node) {
            return Err(NetError::WrongNode { expected: self.node, found: renewed.node });
        }
        Ok(renewed)
    }

    /// Writes the certificate over the one in `directory`; after a crash it is the old or the new.
    pub fn store_certificate(&self, directory: &Path) -> Result<(), NetError> {
        let (path, staged) =
            (directory.join(CERTIFICATE_FILE), directory.join(format!("{CERTIFICATE_FILE}.new")));
        match fs::remove_file(&staged) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(NetError::io(format!("remove {}", staged.display()), error));
            }
        }
        write_file(&staged, &pem("CERTIFICATE", &self.certificate_der))?;
        fault::point(Point::CertificateStaged);
        fs::rename(&staged, &path)
            .map_err(|error| NetError::io(format!("rename to {}", path.display()), error))?;
        fault::point(Point::CertificateReplaced);
        sync_directory(directory)
    }

    /// The cluster this node belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// This node's raft id.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Opens the sealed CA key. Secret.
    pub fn cluster_secret(&self) -> &[u8; 32] {
        &self.cluster_secret
    }

    /// The CA certificate.
    pub fn ca_certificate_der(&self) -> &[u8] {
        &self.ca_certificate_der
    }

    /// BLAKE3 of the CA certificate's DER bytes, as join tokens carry it.
    pub fn ca_fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.ca_certificate_der)
    }

    /// This node's certificate.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// The private key, PKCS#8 DER. Secret.
    pub fn key_der(&self) -> &[u8] {
        &self.key_der
    }

    /// The node's certificate and then the CA's: what the API presents, and what joiners pick the
    /// CA certificate from.
    pub fn certificate_chain_pem(&self) -> String {
        format!("{}{}", pem("CERTIFICATE", &self.certificate_der), self.ca_pem())
    }

    /// The private key, PKCS#8. Secret.
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.key_der)
    }

    /// The CA certificate.
    pub fn ca_pem(&self) -> String {
        pem("CERTIFICATE", &self.ca_certificate_der)
    }
}

fn remove_leftover(staged: &Path) -> Result<(), NetError> {
    match fs::remove_dir_all(staged) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(NetError::io(format!("remove {}", staged.display()), error)),
    }
}

fn write_file(path: &Path, text: &str) -> Result<(), NetError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| NetError::io(format!("write {}", path.display()), error))
}

fn sync_directory(path: &Path) -> Result<(), NetError> {
    // A relative path of one component has the empty path as its parent.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| NetError::io(format!("sync {}", path.display()), error))
}

/// Refuses what is missing, what is of another kind (symbolic links too), and what others may read.
fn check_mode(path: &Path, is_directory: bool) -> Result<(), NetError> {
    let metadata = fs::symlink_metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NetError::IdentityMissing { path: path.to_owned() },
        _ => NetError::io(format!("look at {}", path.display()), error),
    })?;
    let of_kind = if is_directory { metadata.is_dir() } else { metadata.is_file() };
    if !of_kind {
        return Err(damaged(path, "it is not a plain file or directory"));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(NetError::IdentityExposed { path: path.to_owned(), mode });
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<Vec<u8>, NetError> {
    check_mode(path, false)?;
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(IDENTITY_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| NetError::io(format!("read {}", path.display()), error))?;
    if bytes.len() > IDENTITY_FILE_BYTES_MAX {
        return Err(damaged(path, "it is too large"));
    }
    Ok(bytes)
}

fn read_pem<T: PemObject>(directory: &Path, name: &str) -> Result<T, NetError> {
    let path = directory.join(name);
    T::from_pem_slice(&read_file(&path)?).map_err(|error| damaged(&path, &error.to_string()))
}

fn read_secret(path: &Path) -> Result<[u8; 32], NetError> {
    let text = String::from_utf8(read_file(path)?).map_err(|_| damaged(path, "it is no text"))?;
    let hex = text
        .strip_suffix('\n')
        .and_then(|line| line.strip_prefix(FORMAT))
        .and_then(|rest| rest.strip_prefix(' '))
        .ok_or_else(|| damaged(path, "its format is unknown"))?;
    let secret =
        HEXLOWER.decode(hex.as_bytes()).map_err(|_| damaged(path, "it is not hexadecimal"))?;
    secret.try_into().map_err(|_| damaged(path, "the secret has not 32 bytes"))
}

fn damaged(path: &Path, problem: &str) -> NetError {
    NetError::IdentityDamaged { path: path.to_owned(), problem: problem.to_owned() }
}
