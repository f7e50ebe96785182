//! Names as a policy writes them, and siblings under one pattern.

use std::collections::BTreeMap;

use fqdn::Pattern;

/// What is made of several names with the same parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Names {
    /// Each name is written.
    Exact,
    /// Three and more are written as one pattern.
    Generalised,
}

/// A name, or what stands for several.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Written {
    /// `matchName`.
    Name(String),
    /// `matchPattern: "*.…"`, by its parent.
    Below(String),
}

/// Siblings that make a pattern.
const SIBLINGS_MIN: usize = 3;

impl Written {
    /// The field and the text of the item.
    pub(super) fn item(&self) -> (&'static str, String) {
        match self {
            Self::Name(name) => ("matchName", name.clone()),
            Self::Below(parent) => ("matchPattern", format!("*.{parent}")),
        }
    }
}

/// A name as a policy can hold it: lower case, no final dot.
pub(super) fn written_name(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    // A star would be read as one name here and as many by whoever edits the file.
    Pattern::exact(&name).is_ok().then_some(name)
}

/// Sorts names under what is written for them.
pub(super) fn group<'a>(
    names: impl Iterator<Item = &'a str>,
    how: Names,
) -> BTreeMap<Written, Vec<&'a str>> {
    let mut by_parent: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in names {
        by_parent.entry(parent(name)).or_default().push(name);
    }
    let mut groups = BTreeMap::new();
    for (parent, siblings) in by_parent {
        let is_pattern = how == Names::Generalised
            && siblings.len() >= SIBLINGS_MIN
            && !is_public_suffix(parent);
        if is_pattern {
            groups.insert(Written::Below(parent.to_owned()), siblings);
            continue;
        }
        for name in siblings {
            groups.insert(Written::Name(name.to_owned()), vec![name]);
        }
    }
    groups
}

fn parent(name: &str) -> &str {
    name.split_once('.').map_or("", |(_, parent)| parent)
}

/// Zones below which anybody can have a name. Short on purpose: what is missing here is seen by
/// whoever reads the policy, since a pattern is only made on request.
const SHARED_ZONES: [&str; 24] = [
    "akamaiedge.net",
    "amazonaws.com",
    "appspot.com",
    "azure.com",
    "azureedge.net",
    "azurewebsites.net",
    "blogspot.com",
    "cloudapp.net",
    "cloudfront.net",
    "edgekey.net",
    "fastly.net",
    "firebaseapp.com",
    "fly.dev",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "netlify.app",
    "onrender.com",
    "pages.dev",
    "run.app",
    "vercel.app",
    "web.app",
    "windows.net",
    "workers.dev",
];

/// Whether a pattern below this name would stand for names of strangers: fewer than two labels, a
/// short label below a country (`co.uk`), or a zone that is shared by its nature.
fn is_public_suffix(parent: &str) -> bool {
    let mut labels = parent.rsplit('.');
    let (top, second) = (labels.next().unwrap_or_default(), labels.next());
    let Some(second) = second else {
        return true;
    };
    let is_below_country = labels.next().is_none() && top.len() == 2 && second.len() <= 3;
    let is_shared = SHARED_ZONES.iter().any(|zone| {
        let above = parent.strip_suffix(zone);
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    });
    is_below_country || is_shared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(names: &[&str], how: Names) -> Vec<String> {
        let groups = group(names.iter().copied(), how);
        groups.keys().map(|name| name.item().1).collect()
    }

    #[test]
    fn three_siblings_make_a_pattern_on_request() {
        let names = ["a.x.example", "b.x.example", "c.x.example", "d.y.example"];
        assert_eq!(written(&names, Names::Exact), names);
        let expected = ["d.y.example", "*.x.example"];
        assert_eq!(written(&names, Names::Generalised), expected);
        let two = ["a.x.example", "b.x.example", "x.example", "c.d.x.example"];
        assert_eq!(written(&two, Names::Generalised).len(), 4);
    }

    #[test]
    fn strangers_are_never_taken_in() {
        for parent in [
            "com",
            "co.uk",
            "com.au",
            "github.io",
            "s3.amazonaws.com",
            "eu-west-1.elb.amazonaws.com",
        ] {
            let names = ["a", "b", "c"].map(|label| format!("{label}.{parent}"));
            let names = names.each_ref().map(String::as_str);
            assert_eq!(written(&names, Names::Generalised), names);
        }
        for parent in [
            "example.com",
            "example.co.uk",
            "ns.svc.cluster.local",
            "mygithub.io",
        ] {
            let names = ["a", "b", "c"].map(|label| format!("{label}.{parent}"));
            let names = names.each_ref().map(String::as_str);
            assert_eq!(written(&names, Names::Generalised), [format!("*.{parent}")]);
        }
    }

    #[test]
    fn what_is_no_name_is_not_written() {
        for bad in [
            "",
            ".",
            "a..b",
            ".a",
            "*.example.com",
            "a b",
            "a\nb",
            "a#b",
            "a\\.b",
            "ü.example",
            "'a'",
        ] {
            assert_eq!(written_name(bad), None, "{bad:?}");
        }
        assert_eq!(
            written_name("_Srv.X.example."),
            Some("_srv.x.example".to_owned())
        );
    }
}
