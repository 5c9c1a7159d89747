//! TCP ports that stay ours: reserved among all processes of this user on this machine.
//!
//! Asking the kernel for "any free port" and letting go of it is a race that parallel test
//! processes lose now and then. A [`Port`] is taken from below the range that the kernel hands to
//! outgoing connections, and is held by a file lock until it is dropped, so that a server can be
//! restarted on the port it had.

use std::{fs, fs::File, io, net::TcpListener, path::PathBuf};

use rand::RngExt as _;

use crate::home::{self, HomeError};

/// Where the search starts when the kernel leaves room below its ephemeral range.
const LOWEST: u16 = 15_000;
/// The ephemeral range of a Linux that does not say otherwise starts here.
const USUAL_EPHEMERAL: u16 = 32_768;

/// Why no port could be reserved.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// There is nowhere to keep reservations.
    #[error("no place for port reservations")]
    Home(#[source] HomeError),
    /// A reservation file could not be opened.
    #[error("could not open the reservation {}", path.display())]
    Open {
        /// The reservation file.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// Every port in the range is taken.
    #[error("no free port between {lowest} and {highest}")]
    Exhausted {
        /// First port tried.
        lowest: u16,
        /// Last port tried.
        highest: u16,
    },
}

/// A reserved port; the reservation ends when this is dropped or the process dies.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reservation: File,
}

impl Port {
    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Reserves a port on 127.0.0.1 that nobody listens on now.
pub fn reserve() -> Result<Port, PortError> {
    let area = home::area("ports").map_err(PortError::Home)?;
    let (lowest, highest) = range();
    let count = highest - lowest + 1;
    let start = rand::rng().random_range(0..count);
    for step in 0..count {
        let number = lowest + (start + step) % count;
        let path = area.join(number.to_string());
        let file = home::lock_file(&path).map_err(|source| PortError::Open { path, source })?;
        if file.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
            return Ok(Port {
                number,
                _reservation: file,
            });
        }
    }
    Err(PortError::Exhausted { lowest, highest })
}

fn range() -> (u16, u16) {
    let ephemeral = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse::<u16>().ok())
        .unwrap_or(USUAL_EPHEMERAL);
    // A machine whose ephemeral range starts low leaves nothing below it: use the usual range
    // and rely on the bind alone.
    let end = if ephemeral > LOWEST + 1_000 {
        ephemeral
    } else {
        USUAL_EPHEMERAL
    };
    (LOWEST, end - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn reserved_ports_differ_while_they_are_held() {
        let ports: Vec<Port> = (0..50).map(|_| reserve().unwrap()).collect();
        let distinct: BTreeSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(distinct.len(), ports.len());
    }

    #[test]
    fn a_reserved_port_can_be_listened_on() {
        let port = reserve().unwrap();
        TcpListener::bind(("127.0.0.1", port.number())).unwrap();
    }
}
