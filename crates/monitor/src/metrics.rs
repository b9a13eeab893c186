//! What monitoring reads.
