//! The control socket: what an operator may ask of a running imr or imr-top, and how it is answered.
//!
//! Input: lines of JSON on a Unix socket, from root or from this process' own user only. Output: a line for each. It
//! runs in a thread of its own, and the pipeline does only short, paced work for it: no client can delay the pipeline.

mod client;
mod place;
pub mod protocol;
mod server;

use std::path::PathBuf;

use tokio::sync::oneshot;

pub use client::{Client, ClientError};
pub use place::{Place, PlaceError};
pub use server::Server;

use protocol::{Answer, Request};

/// Where the socket is, unless somebody says otherwise.
pub const DEFAULT_PATH: &str = "/run/imr/ctl.sock";
/// The word for no socket at all.
pub const OFF: &str = "off";

/// What is wanted of the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Listen {
    /// [`DEFAULT_PATH`]; when that cannot be had, another imr has it for instance, there is none, and that is said.
    #[default]
    Default,
    /// There, or nowhere: when it cannot be had, nothing is started.
    At(PathBuf),
    /// None.
    Off,
}

impl Listen {
    /// From what a command line or a file says: a path, or [`OFF`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            OFF => Ok(Self::Off),
            "" => Err(format!("an empty path; use {OFF:?} for no control socket")),
            path => Ok(Self::At(path.into())),
        }
    }
}

/// What the server asks of the engine.
#[derive(Debug)]
pub enum Ask {
    /// To carry out a request.
    Do {
        /// What.
        request: Request,
        /// Where the answer goes.
        answer: oneshot::Sender<Answer>,
    },
    /// To tell people of something that went wrong here.
    Tell(String),
}
