//! Namegate: a node-level gate by name. The daemon and the command line.
#![forbid(unsafe_code)]

mod cli;
mod clock;
mod cluster;
mod colour;
mod control;
mod daemon;
mod datapath;
mod demo;
mod directory;
mod doctor;
mod endpoints;
mod exec;
mod exit;
mod exporters;
mod files;
mod flows;
mod guard;
mod http;
mod identities;
mod instance;
mod judge;
mod keeper;
mod lately;
mod learned;
mod learner;
mod listed;
mod live;
mod log;
mod maps;
mod metrics;
mod observing;
mod power;
mod presets;
mod proxy;
mod refresh;
mod remembered;
mod report;
mod resolver;
mod run;
mod secrets;
mod serving;
mod settings;
mod state;
mod status;
mod suggest;
mod sysdump;
mod tell;
mod top;
mod traffic;
mod upstream;
mod watch;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let command = match cli::Namegate::read(&args) {
        Ok(command) => command,
        Err(code) => return code,
    };
    match command.run() {
        Ok(code) => code,
        Err(error) => {
            // Standard error may be closed; the code says enough then.
            let _ = writeln!(std::io::stderr(), "namegate: {error:#}");
            exit::Exit::code_of(&error)
        }
    }
}
