//! Deterministic simulation of whole clusters, on the pure core, from a seed.
