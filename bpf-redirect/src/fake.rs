//! Maps in memory, for tests: bounded, and able to fail on purpose.

use std::collections::BTreeMap;
use std::fmt;

use bpf_redirect_common::{Address, PolicyKey, PolicyValue};

use crate::{Table, TableError};

/// Maps in memory.
#[derive(Debug, Default)]
pub struct FakeTable {
    /// Address to identity.
    pub addresses: BTreeMap<[u8; 16], u32>,
    /// Policy entries, by the fields of their key.
    pub entries: BTreeMap<(u32, u8, u16, u8), PolicyValue>,
    /// How many writes succeed before all fail as on a full map; `None`: all succeed.
    pub writes_left: Option<usize>,
    /// All writes, in their order, in words.
    pub log: Vec<String>,
    /// What else happens at each write, before it is done.
    pub hook: Hook,
}

/// Called with the word that the log will have, also at writes that take away: time may pass, and
/// what it refuses is refused.
#[derive(Default)]
pub struct Hook(pub Option<OnWrite>);

type OnWrite = Box<dyn FnMut(&str) -> Result<(), TableError> + Send>;

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hook").field(&self.0.is_some()).finish()
    }
}

impl FakeTable {
    fn write(&mut self, what: String) -> Result<(), TableError> {
        if let Some(left) = self.writes_left.as_mut() {
            *left = left.checked_sub(1).ok_or(TableError::Full("fake"))?;
        }
        self.note(what)
    }

    fn note(&mut self, what: String) -> Result<(), TableError> {
        if let Some(hook) = &mut self.hook.0 {
            hook(&what)?;
        }
        self.log.push(what);
        Ok(())
    }
}

fn entry(key: PolicyKey) -> (u32, u8, u16, u8) {
    (
        key.identity,
        key.protocol,
        u16::from_be(key.port),
        key.direction(),
    )
}

impl Table for FakeTable {
    fn set_address(&mut self, address: Address, identity: u32) -> Result<(), TableError> {
        self.write(format!("address {identity}"))?;
        self.addresses.insert(address.octets(), identity);
        Ok(())
    }

    fn clear_address(&mut self, address: Address) -> Result<(), TableError> {
        self.note("no address".to_owned())?;
        self.addresses.remove(&address.octets());
        Ok(())
    }

    fn set_entry(&mut self, key: PolicyKey, value: PolicyValue) -> Result<(), TableError> {
        self.write(format!("entry {}", key.identity))?;
        self.entries.insert(entry(key), value);
        Ok(())
    }

    fn clear_entry(&mut self, key: PolicyKey) -> Result<(), TableError> {
        self.note(format!("no entry {}", key.identity))?;
        self.entries.remove(&entry(key));
        Ok(())
    }

    fn replace_entries(&mut self, entries: &[(PolicyKey, PolicyValue)]) -> Result<(), TableError> {
        self.write("entries".to_owned())?;
        self.entries = entries
            .iter()
            .map(|(key, value)| (entry(*key), *value))
            .collect();
        Ok(())
    }

    fn remove_policy(&mut self) -> Result<(), TableError> {
        self.note("no policy".to_owned())?;
        self.entries.clear();
        Ok(())
    }
}
