//! Maps in memory, for tests: bounded, and able to fail on purpose.

use std::collections::BTreeMap;

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
}

impl FakeTable {
    fn write(&mut self, what: String) -> Result<(), TableError> {
        if let Some(left) = self.writes_left.as_mut() {
            *left = left.checked_sub(1).ok_or(TableError::Full("fake"))?;
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
        key.direction,
    )
}

impl Table for FakeTable {
    fn set_address(&mut self, address: Address, identity: u32) -> Result<(), TableError> {
        self.write(format!("address {identity}"))?;
        self.addresses.insert(address.octets(), identity);
        Ok(())
    }

    fn clear_address(&mut self, address: Address) -> Result<(), TableError> {
        self.log.push("no address".to_owned());
        self.addresses.remove(&address.octets());
        Ok(())
    }

    fn set_entry(&mut self, key: PolicyKey, value: PolicyValue) -> Result<(), TableError> {
        self.write(format!("entry {}", key.identity))?;
        self.entries.insert(entry(key), value);
        Ok(())
    }

    fn clear_entry(&mut self, key: PolicyKey) -> Result<(), TableError> {
        self.log.push(format!("no entry {}", key.identity));
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
        self.log.push("no policy".to_owned());
        self.entries.clear();
        Ok(())
    }
}
