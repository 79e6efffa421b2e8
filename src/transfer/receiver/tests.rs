//! Golden scripts and small stories of the receiver.
