//! A relay between a receiver and its source that flips one bit of the data it passes on.
//!
//! QUIC authenticates every packet, so that nothing on the way can change a byte unnoticed. What
//! stands here for faulty memory or a faulty network card is a relay that holds the keys of both
//! nodes: it answers as the source, and asks as the receiver.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ratoon::net::{
    Connection, Endpoint, Identity, Lane, NetError, Options, RecvStream, SendStream,
};
use slog::{Discard, Logger, o};
use tokio::runtime::Runtime;

/// Longest request of a receiver.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Bytes passed on at once.
const PIECE_BYTES: usize = 16 * 1024;

/// The two ends and what is done in between.
pub struct RelayOptions {
    /// Where receivers come to: what the source advertises.
    pub listen: SocketAddr,
    /// Where the source listens.
    pub source: SocketAddr,
    /// Identity directory of the source.
    pub source_identity: PathBuf,
    /// Identity directory of the receiver; it need not be there before the receiver dials.
    pub receiver_identity: PathBuf,
    /// How many answers are damaged, each at the byte `flip_at`, counted from its begin. Shorter
    /// answers pass unharmed.
    pub flips: u64,
    /// See `flips`.
    pub flip_at: u64,
}

/// A running relay; it ends when it is dropped.
pub struct Relay {
    flips_left: Arc<AtomicU64>,
    _runtime: Runtime,
}

impl Relay {
    /// Begins to listen.
    pub fn start(options: RelayOptions) -> Relay {
        let runtime = Runtime::new().expect("a runtime starts");
        let flips_left = Arc::new(AtomicU64::new(options.flips));
        let inside = runtime.enter();
        let identity = Identity::load(&options.source_identity).expect("the source has one");
        let listening = bind(options.listen, &identity);
        drop(inside);
        let context = Arc::new(Context { options, flips_left: flips_left.clone(), identity });
        runtime.spawn(async move {
            while let Some(connection) = listening.accept().await {
                tokio::spawn(serve(Arc::clone(&context), connection));
            }
        });
        Relay { flips_left, _runtime: runtime }
    }

    /// Answers still to be damaged.
    pub fn flips_left(&self) -> u64 {
        self.flips_left.load(Ordering::SeqCst)
    }
}

struct Context {
    options: RelayOptions,
    flips_left: Arc<AtomicU64>,
    identity: Identity,
}

fn bind(listen: SocketAddr, identity: &Identity) -> Endpoint {
    let options = Options { logger: Logger::root(Discard, o!()) };
    Endpoint::bind(Lane::Bulk, listen, identity, options).expect("the relay binds")
}

/// Passes the streams of one receiver on until either side ends. A connection that breaks is the
/// receiver's to mend: it dials again.
async fn serve(context: Arc<Context>, receiver: Connection) {
    let identity = Identity::load(&context.options.receiver_identity).expect("it is enrolled");
    let asking = bind(SocketAddr::from(([127, 0, 0, 1], 0)), &identity);
    let source = context.options.source.to_string();
    let Ok(source) = asking.connect(context.identity.node(), &source).await else { return };
    while let Ok((send, recv)) = receiver.accept_bi().await {
        let (context, source) = (Arc::clone(&context), source.clone());
        // A stream that breaks is reset when it is dropped, which is what the receiver then sees.
        tokio::spawn(async move { pass(&context, &source, send, recv).await.ok() });
    }
}

/// Passes a request on, and its answer back.
async fn pass(
    context: &Context,
    source: &Connection,
    mut back: SendStream,
    mut request: RecvStream,
) -> Result<(), NetError> {
    let Some(frame) = request.read_frame(REQUEST_BYTES_MAX).await? else { return Ok(()) };
    let (mut asked, mut answer) = source.open_bi().await?;
    asked.write_frame_bytes(frame).await?;
    asked.finish()?;
    let flip_at = context.options.flip_at;
    let mut passed = 0;
    while let Some(piece) = answer.read_chunk(PIECE_BYTES).await? {
        let mut piece = piece.to_vec();
        let end = passed + piece.len() as u64;
        if (passed..end).contains(&flip_at) && context.take_flip() {
            piece[(flip_at - passed) as usize] ^= 0x10;
        }
        passed = end;
        back.write(&piece).await?;
    }
    back.finish()
}

impl Context {
    fn take_flip(&self) -> bool {
        let less = |left: u64| left.checked_sub(1);
        self.flips_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }
}
