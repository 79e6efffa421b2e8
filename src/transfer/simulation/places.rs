//! Places at a source: whoever holds one without using it loses it, whatever happened to it.

use std::sync::Arc;

use super::Content;
use crate::transfer::sender::{Input, OpenSnapshot, Options, Output, Sender};
use crate::types::{ByteRange, NodeId, PullRequest};

/// A source with one place, and how many frames it has been asked to send on each stream.
struct Source {
    machine: Sender,
    content: Content,
    now_ms: u64,
    streams: u64,
}

impl Source {
    fn new() -> Source {
        let options = Options { pulls_max: 1, ..Options::default() };
        let content = Content::random(40, &[1000], 1);
        Source { machine: Sender::new(options), content, now_ms: 0, streams: 0 }
    }

    fn tell(&mut self, input: Input) {
        self.machine.handle(self.now_ms, input);
    }

    /// Asks for the one part, on a connection.
    fn request(&mut self, connection: u64) -> u64 {
        self.streams += 1;
        let (stream, snapshot) = (self.streams, self.content.id);
        let ranges = vec![ByteRange { part: 0, offset: 0, bytes: 1000 }];
        let request = Ok(PullRequest::Ranges { snapshot, ranges });
        self.tell(Input::Request { connection, stream, request });
        stream
    }

    /// Streams that frames are sent on now; opens what is to be opened on the way.
    fn fed(&mut self) -> Vec<u64> {
        let mut fed = Vec::new();
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::SendFrame { stream, .. } => fed.push(stream),
                Output::Open { snapshot } => {
                    let Content { manifest, encoded, .. } = self.content.clone();
                    let result = Ok(Arc::new(OpenSnapshot { manifest, encoded }));
                    self.tell(Input::Opened { snapshot, result });
                }
                _ => {}
            }
        }
        fed
    }
}

#[test]
fn a_place_is_given_up_whichever_way_its_receiver_goes() {
    // tikv #11157, #11341: counters of admission leak when the network fails.
    type Leave = fn(&mut Source, u64);
    let ways: [(&str, Leave); 5] = [
        ("the connection closes", |source, _| source.tell(Input::Closed { connection: 1 })),
        ("it connects anew", |source, _| {
            source.tell(Input::Connected { connection: 3, receiver: NodeId(1) });
        }),
        ("it asks for nothing more", |source, stream| {
            source.tell(Input::FrameSent { stream });
            source.now_ms += 10_000;
            source.machine.handle_timer(source.now_ms);
        }),
        ("its stream closes and nothing follows", |source, stream| {
            source.tell(Input::StreamClosed { stream });
            source.now_ms += 10_000;
            source.machine.handle_timer(source.now_ms);
        }),
        ("it takes nothing any more", |source, _| {
            for _ in 0..4 {
                source.now_ms += 10_000;
                source.machine.handle_timer(source.now_ms);
            }
        }),
    ];
    for (way, leave) in ways {
        let mut source = Source::new();
        source.tell(Input::Connected { connection: 1, receiver: NodeId(1) });
        source.tell(Input::Connected { connection: 2, receiver: NodeId(2) });
        let first = source.request(1);
        assert_eq!(source.fed(), [first], "{way}");
        let second = source.request(2);
        assert_eq!(source.fed(), [], "{way}: there is one place");
        leave(&mut source, first);
        assert_eq!(source.fed(), [second], "{way}: it is the other's turn");
        assert_eq!(source.machine.places_taken(), 1, "{way}");
    }
}
