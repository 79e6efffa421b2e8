//! How a new machine becomes a node. The only service open to a caller without a certificate: the
//! secret of a join token is the proof, so nothing here logs it or says more than it must.

use tonic::{Request, Response, Status};

use super::refuse;
use crate::limits;
use crate::node::Handle;
use crate::proto::public::addresses_from;
use crate::proto::v1::enrollment_server::Enrollment;
use crate::proto::v1::*;
use crate::types::{Addresses as DomainAddresses, ClusterId, Code, Failure};

/// `ratoon.v1.Enrollment`.
pub(super) struct EnrollmentService {
    /// The node.
    pub(super) handle: Handle,
}

/// A request to join, checked as far as that can be done without the state.
#[derive(Debug)]
pub(super) struct Joining {
    secret: [u8; 32],
    addresses: DomainAddresses,
    certificate_request: Vec<u8>,
}

pub(super) fn joining(asked: JoinRequest, cluster: ClusterId) -> Result<Joining, Failure> {
    let invalid = |message: &str| {
        Failure::new(Code::InvalidArgument, message)
            .hint("join with the command that `ratoon token create` printed")
    };
    let theirs: ClusterId =
        asked.cluster_id.parse().map_err(|_| invalid("cluster_id is not 32 hexadecimal digits"))?;
    if theirs != cluster {
        return Err(Failure::new(
            Code::WrongCluster,
            format!("the token is of cluster {theirs}, this is cluster {cluster}"),
        )
        .hint("create a token on the cluster to join"));
    }
    let secret = asked.secret.as_ref().try_into().map_err(|_| invalid("secret is not 32 bytes"))?;
    let bytes = asked.certificate_request.len();
    if bytes == 0 || bytes > limits::CERTIFICATE_REQUEST_BYTES_MAX {
        return Err(invalid(&format!("certificate_request has {bytes} bytes")));
    }
    Ok(Joining {
        secret,
        addresses: addresses_from(asked.addresses)?,
        certificate_request: asked.certificate_request.to_vec(),
    })
}

#[tonic::async_trait]
impl Enrollment for EnrollmentService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let asked = joining(request.into_inner(), self.handle.cluster()).map_err(refuse)?;
        let enrolled = self
            .handle
            .enroll(asked.secret, asked.addresses, asked.certificate_request)
            .await
            .map_err(refuse)?;
        Ok(Response::new(enrolled))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    fn request() -> JoinRequest {
        let address = |port: u16| format!("10.0.0.2:{port}");
        JoinRequest {
            secret: vec![1; 32].into(),
            cluster_id: CLUSTER.to_string(),
            addresses: Some(Addresses {
                raft: address(7400),
                bulk: address(7401),
                api: address(7402),
            }),
            certificate_request: vec![0x30; 200].into(),
        }
    }

    #[test]
    fn a_whole_request_passes_and_each_broken_part_is_refused() {
        let whole = joining(request(), CLUSTER).unwrap();
        assert_eq!((whole.secret, whole.addresses.bulk.as_str()), ([1; 32], "10.0.0.2:7401"));
        assert_eq!(whole.certificate_request.len(), 200);

        let other = ClusterId([8; 16]).to_string();
        let huge = vec![0; limits::CERTIFICATE_REQUEST_BYTES_MAX + 1];
        let cases = [
            (JoinRequest { cluster_id: other, ..request() }, Code::WrongCluster),
            (JoinRequest { cluster_id: "x".into(), ..request() }, Code::InvalidArgument),
            (JoinRequest { secret: vec![1; 31].into(), ..request() }, Code::InvalidArgument),
            (JoinRequest { addresses: None, ..request() }, Code::InvalidArgument),
            (
                JoinRequest { certificate_request: vec![].into(), ..request() },
                Code::InvalidArgument,
            ),
            (JoinRequest { certificate_request: huge.into(), ..request() }, Code::InvalidArgument),
        ];
        for (request, code) in cases {
            assert_eq!(joining(request, CLUSTER).unwrap_err().code, code);
        }
    }
}
