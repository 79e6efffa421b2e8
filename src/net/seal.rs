//! Sealing of the CA key, so that it can be replicated without every reader of the state having it.
//!
//! AES-256-GCM under a key derived from the cluster secret; bound to the cluster id. The result is
//! a version byte, a random nonce of 12 bytes, and ciphertext with tag.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};

use super::NetError;
use crate::limits::IDENTITY_FILE_BYTES_MAX;
use crate::types::ClusterId;

/// Version of the sealed form.
const SEAL_VERSION: u8 = 1;
/// Length of the nonce.
const NONCE_BYTES: usize = 12;
/// Names the use of the derived key; never changes.
const CONTEXT: &str = "ratoon 2026-01 CA key seal";

/// Seals the CA key (PKCS#8 DER) of `cluster`.
pub fn seal(
    cluster: ClusterId,
    cluster_secret: &[u8; 32],
    ca_key_der: &[u8],
) -> Result<Vec<u8>, NetError> {
    let mut text = ca_key_der.to_vec();
    let nonce = key(cluster_secret)?
        .seal_in_place_append_tag(Aad::from(bound_to(cluster)), &mut text)
        .map_err(|_| NetError::KeyMaterial("the CA key cannot be sealed".to_owned()))?;
    let mut sealed = vec![SEAL_VERSION];
    sealed.extend_from_slice(nonce.as_ref());
    sealed.extend_from_slice(&text);
    Ok(sealed)
}

/// Opens what `seal` made with the same cluster id and secret.
pub fn unseal(
    cluster: ClusterId,
    cluster_secret: &[u8; 32],
    sealed: &[u8],
) -> Result<Vec<u8>, NetError> {
    if sealed.len() > IDENTITY_FILE_BYTES_MAX {
        return Err(NetError::SealBroken);
    }
    let (&version, rest) = sealed.split_first().ok_or(NetError::SealBroken)?;
    let (nonce, text) = rest.split_at_checked(NONCE_BYTES).ok_or(NetError::SealBroken)?;
    if version != SEAL_VERSION {
        return Err(NetError::SealBroken);
    }
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| NetError::SealBroken)?;
    let mut text = text.to_vec();
    let opened = key(cluster_secret)?
        .open_in_place(nonce, Aad::from(bound_to(cluster)), &mut text)
        .map_err(|_| NetError::SealBroken)?;
    Ok(opened.to_vec())
}

fn key(cluster_secret: &[u8; 32]) -> Result<RandomizedNonceKey, NetError> {
    let derived = blake3::derive_key(CONTEXT, cluster_secret);
    RandomizedNonceKey::new(&AES_256_GCM, &derived)
        .map_err(|_| NetError::KeyMaterial("the sealing key is refused".to_owned()))
}

fn bound_to(cluster: ClusterId) -> [u8; 17] {
    let mut bound = [SEAL_VERSION; 17];
    bound[1..].copy_from_slice(&cluster.0);
    bound
}
