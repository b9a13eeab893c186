//! Starts, losses, ends: how a session lives.
