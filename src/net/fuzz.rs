//! Fuzz targets of this room: frames, certificates and the requests for them, sealed keys, and the
//! files of an identity.
#![allow(clippy::unwrap_used)]

use std::fs;

use bytes::Bytes;

use super::frame::{FrameAssembler, header};
use super::subject::certified_hosts;
use super::testing::{authority, identity};
use super::{Identity, NetError, NodeKey, parse_subject, seal, unseal};
use crate::fuzz::{Target, Verdict, bounded};
use crate::types::{ClusterId, NodeId};

/// Longest frame that the reader of the target takes.
const FRAME_BYTES_MAX: usize = 4096;

/// Reads all frames of `stream`, in pieces whose lengths repeat.
fn read_frames(stream: &[u8], pieces: &[usize]) -> Result<Vec<Bytes>, NetError> {
    let mut assembler = FrameAssembler::default();
    let mut rest = Bytes::copy_from_slice(stream);
    let mut pieces = pieces.iter().cycle();
    let mut frames = Vec::new();
    loop {
        let wanted = assembler.wanted(FRAME_BYTES_MAX)?;
        if wanted == 0 {
            frames.push(assembler.take());
        } else if rest.is_empty() {
            return assembler.end().map(|()| frames);
        } else {
            let piece = (*pieces.next().unwrap()).min(wanted).min(rest.len());
            assembler.push(rest.split_to(piece));
        }
    }
}

#[test]
fn frames() {
    let stream = |frames: &[&[u8]]| {
        let framed = frames.iter().map(|frame| [&header(frame.len()).unwrap()[..], frame].concat());
        framed.collect::<Vec<_>>().concat()
    };
    let examples = vec![
        ("one", stream(&[b"frame"])),
        ("three", stream(&[b"first", b"", &[7; 300]])),
        ("none", stream(&[])),
    ];
    Target::new("frames", examples).run(|input| {
        let whole = bounded(input, || read_frames(input, &[usize::MAX]));
        let pieces = bounded(input, || read_frames(input, &[1, 5, 300]));
        match (&whole, &pieces) {
            (Ok(whole), Ok(pieces)) => {
                assert_eq!(whole, pieces);
                let frames: Vec<&[u8]> = whole.iter().map(|frame| &frame[..]).collect();
                assert_eq!(stream(&frames), input);
            }
            (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
            (one, other) => panic!("{one:?} in one piece, {other:?} in several"),
        }
        Verdict::of(&whole)
    });
}

#[test]
fn certificates() {
    let authority = authority(1);
    let node = identity(&authority, 2);
    let (client_pem, _) = authority.issue_client("admin").unwrap();
    let base64: String = client_pem.lines().filter(|line| !line.starts_with('-')).collect();
    let client = data_encoding::BASE64.decode(base64.as_bytes()).unwrap();
    let examples = vec![("node", node.certificate_der().to_vec()), ("client", client)];
    Target::new("certificate", examples).run(|input| {
        let subject = bounded(input, || parse_subject(input));
        if let Ok(subject) = &subject {
            let parsed = super::Subject::parse(&subject.dns_name());
            assert_eq!(parsed.as_ref(), Some(subject));
        }
        let hosts = bounded(input, || certified_hosts(input));
        for host in hosts.iter().flatten() {
            assert!(!host.ends_with(super::subject::SUFFIX), "{host} says who somebody is");
        }
        Verdict::of(&subject)
    });
}

#[test]
fn certificate_requests() {
    let authority = authority(1);
    let request = NodeKey::generate().unwrap().request_der().to_vec();
    Target::new("certificate-request", vec![("node", request)]).run(|input| {
        let hosts = ["127.0.0.1".to_owned(), "node-2.example".to_owned()];
        let result = bounded(input, || authority.issue_node(NodeId(2), &hosts, input));
        if let Ok(certificate) = &result {
            // Whatever the request asks for, this is what the certificate says.
            let subject = parse_subject(certificate).unwrap();
            assert_eq!(subject.to_string(), "node 2");
            assert_eq!(subject.cluster(), ClusterId([1; 16]));
            assert_eq!(certified_hosts(certificate).unwrap().len(), hosts.len());
        }
        Verdict::of(&result)
    });
}

#[test]
fn sealed_keys() {
    let (cluster, secret) = (ClusterId([1; 16]), [2; 32]);
    let key = b"the key of an authority";
    let sealed = seal(cluster, &secret, key).unwrap();
    let earlier = seal(cluster, &secret, b"").unwrap();
    Target::new("sealed-key", vec![("key", sealed), ("empty", earlier)]).run(|input| {
        let opened = bounded(input, || unseal(cluster, &secret, input));
        // Nobody without the secret makes anything that opens.
        if let Ok(opened) = &opened {
            assert!(opened == key || opened.is_empty());
        }
        assert!(unseal(ClusterId([9; 16]), &secret, input).is_err());
        Verdict::of(&opened)
    });
}

#[test]
fn files_of_an_identity() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("identity");
    identity(&authority(1), 2).create(&directory).unwrap();
    let mut paths: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let contents: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    // A number says which file is replaced.
    let names = ["first", "second", "third", "fourth"];
    assert_eq!(names.len(), contents.len());
    let examples = (0..)
        .zip(&contents)
        .map(|(number, content)| (names[usize::from(number)], [&[number][..], content].concat()));
    let examples: Vec<(&'static str, Vec<u8>)> = examples.collect();
    let target = Target { is_fleeting: true, ..Target::new("identity", examples) };
    target.run(|input| {
        let Some((number, content)) = input.split_first() else { return Verdict::Refused };
        let Some(path) = paths.get(usize::from(*number)) else { return Verdict::Refused };
        fs::write(path, content).unwrap();
        let result = bounded(input, || Identity::load(&directory));
        fs::write(path, &contents[usize::from(*number)]).unwrap();
        Verdict::of(&result)
    });
}
