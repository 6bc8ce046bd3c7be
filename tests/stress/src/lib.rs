//! The host's side of the handshake, the very files of imr-user, compiled with this crate's flags. Not imr-user itself:
//! what it depends on takes minutes to build, once for each sanitizer, and has no part in the handshake.

#[path = "../../../imr-user/src/guest/mod.rs"]
pub mod guest;
pub mod model;
