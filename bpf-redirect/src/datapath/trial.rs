//! Programs run by hand (`BPF_PROG_TEST_RUN`), for tests and benchmarks.

use std::time::Duration;

use aya::programs::{TestRun, TestRunOptions};

use super::{Datapath, DatapathError, classifier};
use crate::attach::Hook;
use crate::object;

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timed {
    /// The program of a hook.
    Hook(Hook),
    /// A program that lets everything pass: what a run costs by itself.
    Nothing,
    /// One that looks up the endpoint of the interface: a hit in a hash.
    LookUp,
}

impl Datapath {
    /// Runs a program once on a packet: its return value, and the packet as it left.
    ///
    /// # Errors
    /// If the kernel refuses the packet or the context.
    pub fn try_packet(
        &mut self,
        hook: Hook,
        packet: &[u8],
        mark: u32,
    ) -> Result<(i32, Vec<u8>, u32), DatapathError> {
        let name = hook.program();
        let mut out = vec![0; packet.len() + 64];
        // struct __sk_buff: len, pkt_type, mark, …
        let mut context = [0u8; 192];
        let mut context_out = [0u8; 192];
        for (to, from) in context.iter_mut().skip(8).zip(mark.to_ne_bytes()) {
            *to = from;
        }
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        options.ctx_out = Some(&mut context_out);
        let result = classifier(&mut self.ebpf, name)?
            .test_run(options)
            .map_err(|source| DatapathError::Program { name, source })?;
        out.truncate(result.data_size_out as usize);
        let mark_out = context_out
            .get(8..12)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_ne_bytes);
        Ok((result.return_value.cast_signed(), out, mark_out))
    }

    /// How many instructions the verifier walked through to accept a hook's program, on all ways through
    /// it; it takes a million. `None` from a kernel that doesn't tell (before 5.16).
    ///
    /// # Errors
    /// If the program can't be asked.
    pub fn verified_instructions(&mut self, hook: Hook) -> Result<Option<u32>, DatapathError> {
        let name = hook.program();
        let info = classifier(&mut self.ebpf, name)?
            .info()
            .map_err(|source| DatapathError::Program { name, source })?;
        Ok(info.verified_instruction_count())
    }

    /// Runs a program on a packet so many times: its last return value, and how long one run took on
    /// average. What a run does to the packet, the next one finds.
    ///
    /// # Errors
    /// If the kernel refuses the packet.
    pub fn time_packet(
        &mut self,
        timed: Timed,
        packet: &[u8],
        repeat: u32,
    ) -> Result<(i32, Duration), DatapathError> {
        let name = match timed {
            Timed::Hook(hook) => hook.program(),
            Timed::Nothing => object::NOTHING,
            Timed::LookUp => object::LOOK_UP,
        };
        let failed = |source| DatapathError::Program { name, source };
        let program = classifier(&mut self.ebpf, name)?;
        if program.fd().is_err() {
            // Of no use but here.
            program.load().map_err(failed)?;
        }
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.repeat = repeat;
        let result = program.test_run(options).map_err(failed)?;
        Ok((result.return_value.cast_signed(), result.duration))
    }
}
