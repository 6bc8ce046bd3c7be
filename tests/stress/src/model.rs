//! What the handshake uses of imr-user's layer of this name.

#[path = "../../../imr-user/src/model/ids.rs"]
pub mod ids;
