use super::*;
use bpf_redirect_common::Verdict;

use crate::FakeTable;

fn address(last: u8) -> Address {
    Address::from(std::net::IpAddr::from([192, 0, 2, last]))
}

fn open(last: u8, identity: u32) -> Change {
    Change {
        address: address(last),
        identity: Some(identity),
    }
}

fn entry(identity: u32) -> Entries {
    let key = PolicyKey::new(1, identity, 0, (0, 0));
    vec![(key, PolicyValue::new(1, Verdict::Allow))]
}

#[test]
fn entries_are_written_before_the_address() {
    let mut ledger = Ledger::new(FakeTable::default());
    ledger.install(&[open(1, 70)], entry).unwrap();
    assert_eq!(ledger.table.log, ["entry 70", "address 70"]);
}

#[test]
fn a_refresh_writes_nothing_and_gives_its_reference_back() {
    let mut ledger = Ledger::new(FakeTable::default());
    ledger.install(&[open(1, 70)], entry).unwrap();
    ledger.table.log.clear();
    let outcome = ledger.install(&[open(1, 70)], entry).unwrap();
    assert_eq!((ledger.table.log.len(), outcome.released), (0, vec![70]));
}

#[test]
fn ten_thousand_addresses_of_one_identity_cost_one_entry() {
    let mut ledger = Ledger::new(FakeTable::default());
    for index in 0..10_000u32 {
        let address = Address::from(std::net::IpAddr::from(
            (0x0a00_0000u32 + index).to_be_bytes(),
        ));
        ledger
            .install(
                &[Change {
                    address,
                    identity: Some(70),
                }],
                entry,
            )
            .unwrap();
    }
    assert_eq!(
        (ledger.table.entries.len(), ledger.table.addresses.len()),
        (1, 10_000)
    );
}

#[test]
fn a_new_identity_replaces_the_old_one_in_one_write() {
    let mut ledger = Ledger::new(FakeTable::default());
    ledger.install(&[open(1, 70)], entry).unwrap();
    ledger.table.log.clear();
    let outcome = ledger.install(&[open(1, 71)], entry).unwrap();
    assert_eq!(ledger.table.log, ["entry 71", "address 71", "no entry 70"]);
    assert_eq!(outcome.released, [70]);
}

#[test]
fn a_full_map_leaves_no_half_of_an_answer() {
    for writes in 0..5 {
        let mut ledger = Ledger::new(FakeTable::default());
        ledger.install(&[open(9, 60)], entry).unwrap();
        let before = (ledger.table.addresses.clone(), ledger.table.entries.clone());
        ledger.table.writes_left = Some(writes);
        let changes = [open(1, 70), open(9, 70), open(2, 71), open(3, 70)];
        // Six writes are needed; undoing an overwrite needs one more, so leave room for none.
        let error = ledger.install(&changes, entry).unwrap_err();
        let mut released = error.released;
        released.sort_unstable();
        let overwritten = writes > 2;
        if overwritten {
            assert!(
                !ledger.table.addresses.contains_key(&address(9).octets()),
                "closed, not wrongly open"
            );
            assert_eq!(released, [60, 70, 70, 70, 71], "{writes}");
        } else {
            assert_eq!(
                (ledger.table.addresses.clone(), ledger.table.entries.clone()),
                before,
                "{writes}"
            );
            assert_eq!(released, [70, 70, 70, 71], "{writes}");
        }
        assert!(ledger.table.entries.len() <= 1);
    }
}

#[test]
fn taking_away_goes_backwards() {
    let mut ledger = Ledger::new(FakeTable::default());
    ledger.install(&[open(1, 70), open(2, 70)], entry).unwrap();
    ledger.table.log.clear();
    let away = |last| Change {
        address: address(last),
        identity: None,
    };
    assert!(
        ledger
            .install(&[away(1)], entry)
            .unwrap()
            .released
            .is_empty()
    );
    assert_eq!(ledger.install(&[away(2)], entry).unwrap().released, [70]);
    assert_eq!(
        ledger.table.log,
        ["no address", "no address", "no entry 70"]
    );
}

#[test]
fn a_reload_that_is_refused_leaves_what_there_was_to_take_away() {
    let mut ledger = Ledger::new(FakeTable::default());
    ledger.install(&[open(1, 70)], entry).unwrap();
    ledger.table.writes_left = Some(0);
    let none = |_| Entries::new();
    let error = ledger.reload(Entries::new(), &[open(1, 80)], none);
    assert_eq!(error.unwrap_err().released, [80]);
    let away = Change {
        address: address(1),
        identity: None,
    };
    assert_eq!(ledger.settle(&[away], none), [70]);
    assert!(ledger.table.entries.is_empty(), "no entry is left behind");
}

#[test]
fn settling_closes_what_it_cannot_change_and_goes_on() {
    let mut ledger = Ledger::new(FakeTable::default());
    ledger
        .install(&[open(1, 70), open(2, 70), open(3, 70)], entry)
        .unwrap();
    ledger.table.writes_left = Some(1);
    let away = Change {
        address: address(3),
        identity: None,
    };
    // Room for an entry of 71, none for an address.
    let mut released = ledger.settle(&[open(1, 71), open(2, 70), away], entry);
    released.sort_unstable();
    assert_eq!(released, [70, 71]);
    let left: Vec<(Address, u32)> = ledger.addresses().collect();
    assert_eq!(left, [(address(2), 70)]);
    let entries: Vec<u32> = ledger.table.entries.keys().map(|key| key.0).collect();
    assert_eq!(entries, [70]);
}

#[test]
fn a_reload_swaps_all_entries_and_then_moves_addresses() {
    let mut ledger = Ledger::new(FakeTable::default());
    ledger.install(&[open(1, 70), open(2, 71)], entry).unwrap();
    ledger.table.log.clear();
    let changes = [
        open(1, 80),
        Change {
            address: address(2),
            identity: None,
        },
    ];
    let outcome = ledger.reload(entry(0), &changes, entry).unwrap();
    assert_eq!(
        ledger.table.log.first().map(String::as_str),
        Some("entries")
    );
    assert_eq!(outcome.released, [70, 71]);
    let left: Vec<u32> = ledger.table.entries.keys().map(|key| key.0).collect();
    assert_eq!(left, [0, 80]);
}

/// A table that takes no two addresses at once.
#[derive(Default)]
struct OneByOne(FakeTable);

impl Table for OneByOne {
    fn set_address(&mut self, address: Address, identity: u32) -> Result<(), TableError> {
        self.0.set_address(address, identity)
    }

    fn set_addresses(&mut self, _: &[(Address, u32)]) -> (usize, Result<(), TableError>) {
        (0, Err(TableError::Full("many")))
    }

    fn clear_address(&mut self, address: Address) -> Result<(), TableError> {
        self.0.clear_address(address)
    }

    fn set_entry(&mut self, key: PolicyKey, value: PolicyValue) -> Result<(), TableError> {
        self.0.set_entry(key, value)
    }

    fn clear_entry(&mut self, key: PolicyKey) -> Result<(), TableError> {
        self.0.clear_entry(key)
    }

    fn replace_entries(&mut self, entries: &[(PolicyKey, PolicyValue)]) -> Result<(), TableError> {
        self.0.replace_entries(entries)
    }

    fn remove_policy(&mut self) -> Result<(), TableError> {
        self.0.remove_policy()
    }
}

#[test]
fn many_at_once_are_what_they_are_one_by_one_also_where_the_map_is_full() {
    let before = [open(1, 60), open(2, 60), open(3, 61), open(4, 60)];
    let away = |last| Change {
        address: address(last),
        identity: None,
    };
    let changes = [
        open(1, 70), // an identity that is new
        open(2, 70),
        open(3, 60),
        open(5, 70),
        open(6, 61),
        away(4),
        open(7, 71),
        open(8, 60),
        open(9, 71),
    ];
    for writes in 0..14 {
        let mut many = Ledger::new(FakeTable::default());
        let mut single = Ledger::new(OneByOne::default());
        many.install(&before, entry).unwrap();
        single.install(&before, entry).unwrap();
        many.table.writes_left = Some(writes);
        single.table.0.writes_left = Some(writes);
        let [mut released, mut expected] =
            [many.settle(&changes, entry), single.settle(&changes, entry)];
        released.sort_unstable();
        expected.sort_unstable();
        assert_eq!(released, expected, "{writes}");
        assert_eq!(many.table.addresses, many.addresses, "{writes}");
        assert_eq!(many.addresses, single.addresses, "{writes}");
        assert_eq!(many.table.entries, single.table.0.entries, "{writes}");
        let held = |ledger: &Ledger<FakeTable>| -> Vec<(u32, usize)> {
            let held = ledger.identities.iter();
            held.map(|(identity, held)| (*identity, held.addresses))
                .collect()
        };
        let counted: Vec<(u32, usize)> = many
            .identities
            .keys()
            .map(|one| {
                (
                    *one,
                    many.addresses.values().filter(|of| *of == one).count(),
                )
            })
            .collect();
        assert_eq!(held(&many), counted, "{writes}");
    }
}
