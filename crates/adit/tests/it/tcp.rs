//! TCP tunnels.
