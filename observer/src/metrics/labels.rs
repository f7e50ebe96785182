//! The labels of a series, in a form that is made and compared without an allocation.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;

use flow::{L4, RecordType};
use prometheus_client::encoding::{
    EncodeLabelKey, EncodeLabelSet, EncodeLabelValue, LabelSetEncoder,
};

/// Labels of a metric of its own, without those that say who is meant.
pub(super) const OWN_LABELS_MAX: usize = 4;

/// The name of a label with its value; no name for a place that is not used.
pub(super) type Label = (&'static str, Value);

/// A place that is not used.
pub(super) const NONE: Label = ("", Value::Word(""));

/// All labels of a series.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Labels {
    pub(super) own: [Label; OWN_LABELS_MAX],
    /// Empty unless an option asks for it: then, and only then, it is allocated.
    pub(super) context: Vec<Label>,
}

impl Labels {
    /// Has them all say one word.
    pub(super) fn fold(&mut self, word: &'static str) {
        let all = self.own.iter_mut().chain(&mut self.context);
        for (_, value) in all.filter(|(name, _)| !name.is_empty()) {
            *value = Value::Word(word);
        }
    }
}

/// What a label says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Value {
    /// A word of a closed list.
    Word(&'static str),
    /// The same in lower case.
    Lower(&'static str),
    /// A text of the event.
    Text(Arc<str>),
    /// Several, with commas between.
    Texts(Vec<Arc<str>>),
    /// A namespace and a name in it.
    InNamespace(Arc<str>, Arc<str>),
    /// A number.
    Number(u32),
    /// An address.
    Address(IpAddr),
    /// A type of DNS records.
    Type(RecordType),
    /// Several.
    Types(Vec<RecordType>),
    /// Type and code of an ICMP message, and whether it is of IPv6.
    Icmp { is_v6: bool, kind: u8, code: u8 },
}

impl Value {
    /// The types of the questions of one message, of which there is one.
    pub(super) fn of_types(types: &[RecordType]) -> Self {
        match types {
            [one] => Self::Type(one.clone()),
            several => Self::Types(several.to_vec()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Word(text) | Self::Lower(text) => text.is_empty(),
            Self::Text(text) => text.is_empty(),
            Self::Texts(texts) => texts.is_empty(),
            Self::InNamespace(namespace, name) => namespace.is_empty() && name.is_empty(),
            Self::Types(types) => types.is_empty(),
            Self::Number(_) | Self::Address(_) | Self::Type(_) | Self::Icmp { .. } => false,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => f.write_str(word),
            Self::Lower(word) => word
                .chars()
                .try_for_each(|letter| f.write_char(letter.to_ascii_lowercase())),
            Self::Text(text) => f.write_str(text),
            Self::Texts(texts) => joined(f, texts),
            Self::InNamespace(namespace, name) if namespace.is_empty() => f.write_str(name),
            Self::InNamespace(namespace, name) => write!(f, "{namespace}/{name}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Address(ip) => write!(f, "{ip}"),
            Self::Type(kind) => write!(f, "{kind}"),
            Self::Types(types) => joined(f, types),
            Self::Icmp { is_v6, kind, code } => {
                let (kind, code) = (*kind, *code);
                let l4 = match is_v6 {
                    true => L4::Icmpv6 { kind, code },
                    false => L4::Icmpv4 { kind, code },
                };
                f.write_str(&l4.icmp_text().unwrap_or_default())
            }
        }
    }
}

fn joined<T: fmt::Display>(f: &mut fmt::Formatter<'_>, all: &[T]) -> fmt::Result {
    for (at, one) in all.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(f, "{comma}{one}")?;
    }
    Ok(())
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let all = self.own.iter().chain(&self.context);
        for (name, value) in all.filter(|(name, _)| !name.is_empty()) {
            let mut label = encoder.encode_label();
            let mut key = label.encode_label_key()?;
            EncodeLabelKey::encode(name, &mut key)?;
            let mut text = key.encode_label_value()?;
            EncodeLabelValue::encode(&value.to_string(), &mut text)?;
            text.finish()?;
        }
        Ok(())
    }
}
