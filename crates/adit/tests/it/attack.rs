//! What strangers, visitors, agents, local services and servers may do to hurt; a test for each rule of the house.

mod answers;
mod frames;
mod liar;
mod names;
mod requests;
mod secrets;
mod slow;
mod strangers;
mod wire;
