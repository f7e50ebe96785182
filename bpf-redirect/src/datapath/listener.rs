//! The listener for redirected connections.

use std::os::fd::{AsFd, AsRawFd};

use aya::Ebpf;
use aya::maps::{MapData, SockMap};
use aya::programs::sk_lookup::SkLookupLink;
use aya::programs::{Program, SkLookup};
use bpf_redirect_common as common;

use super::{Datapath, DatapathError, map_error, program_error};
use crate::object::LISTEN;

/// A socket is found for the connections that are redirected to a namespace, as long as this lives: it
/// ends with the process, and the socket does too.
#[derive(Debug)]
pub struct Listening {
    _link: SkLookupLink,
}

pub(super) fn load(program: &mut Program) -> Result<(), DatapathError> {
    let program: &mut SkLookup = program.try_into().map_err(program_error(LISTEN))?;
    program.load().map_err(program_error(LISTEN))
}

impl Datapath {
    /// Makes a listening socket of the gate the one that takes the connections to all ports but DNS.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn listen(
        &mut self,
        gate: impl AsFd,
        socket: &impl AsRawFd,
    ) -> Result<Listening, DatapathError> {
        let mut map: SockMap<MapData> = self.open(common::LISTENER)?;
        map.set(0, socket, 0).map_err(map_error(common::LISTENER))?;
        let program = program(&mut self.ebpf)?;
        let id = program.attach(gate).map_err(program_error(LISTEN))?;
        let _link = program.take_link(id).map_err(program_error(LISTEN))?;
        Ok(Listening { _link })
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SkLookup, DatapathError> {
    let program = ebpf
        .program_mut(LISTEN)
        .ok_or(DatapathError::Missing(LISTEN))?;
    program.try_into().map_err(program_error(LISTEN))
}
