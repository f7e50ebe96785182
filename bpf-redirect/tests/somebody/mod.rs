//! A program of somebody else. The tests of whole nodes use this file too.

use aya::Ebpf;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType};
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};

/// A program that lets everything pass and lets nobody else decide: `r0 = TC_ACT_OK; exit`.
const OK: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// Loads it under a name.
pub(crate) fn somebody_elses(name: &str) -> Ebpf {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let section = object.add_section(Vec::new(), b"classifier".to_vec(), SectionKind::Text);
    let symbol = object.add_symbol(Symbol {
        name: name.as_bytes().to_vec(),
        value: 0,
        size: 0,
        kind: SymbolKind::Text,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    object.add_symbol_data(symbol, section, &OK, 8);
    Ebpf::load(&object.write().unwrap()).unwrap()
}

/// Attaches it at ingress of an interface of the calling thread's namespace.
pub(crate) fn in_front(
    ebpf: &mut Ebpf,
    interface: &str,
    how: TcAttachOptions,
) -> SchedClassifierLink {
    let (_, program) = ebpf.programs_mut().next().unwrap();
    let program: &mut SchedClassifier = program.try_into().unwrap();
    let _ = program.load();
    let id = program
        .attach_with_options(interface, TcAttachType::Ingress, how)
        .unwrap();
    program.take_link(id).unwrap()
}
