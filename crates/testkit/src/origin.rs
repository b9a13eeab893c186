//! Services to publish: each listens on a free port of 127.0.0.1 and ends when its handle is dropped.

mod canned;
mod grpc;
mod grpc_health;
mod http;
mod tcp;

pub use canned::{Canned, Manner};
pub use grpc::{GrpcAnswer, GrpcOrigin, call as grpc_call};
pub use grpc_health::GrpcHealth;
pub use http::{HttpOrigin, RANGE_LENGTH, pattern};
pub use tcp::TcpOrigin;
