//! Patterns of pods, of names and of nodes.

/// `ns/prefix`, `ns/` for any in ns, `/prefix` for any namespace, `prefix` for namespace `default`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PodPattern {
    /// Empty for any.
    namespace: String,
    prefix: String,
}

impl PodPattern {
    /// The pattern of a flag's value; the namespace is the first part, if there are two.
    pub(super) fn of(text: &str) -> Self {
        let (namespace, prefix) = text.split_once('/').unwrap_or(("default", text));
        Self {
            namespace: namespace.to_owned(),
            prefix: prefix.to_owned(),
        }
    }

    /// A peer that has neither namespace nor pod is never meant.
    pub(super) fn matches(&self, namespace: &str, pod: &str) -> bool {
        let is_pod = !(namespace.is_empty() && pod.is_empty());
        let same = self.namespace.is_empty() || self.namespace == namespace;
        is_pod && same && pod.starts_with(&self.prefix)
    }
}

/// A name with `*` for any run of `-`, `.`, digits and letters, dots included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NamePattern(Vec<u8>);

impl NamePattern {
    /// The pattern of a flag's value; one final dot is cut, two are refused.
    pub(super) fn of(text: &str) -> Result<Self, String> {
        let text = text.trim().to_ascii_lowercase();
        let text = text.strip_suffix('.').unwrap_or(&text);
        let is_foreign = |c: &char| !matches!(c, '*' | '_' | '-' | '.' | '0'..='9' | 'a'..='z');
        match (text, text.chars().find(is_foreign)) {
            ("", _) => Err("an empty pattern".to_owned()),
            (text, _) if text.ends_with('.') => Err("multiple trailing dots in pattern".to_owned()),
            (_, Some(c)) => Err(format!("{c:?}: invalid rune in pattern")),
            (text, None) => Ok(Self(text.as_bytes().to_vec())),
        }
    }

    /// Whether the whole name is meant.
    pub(super) fn matches(&self, name: &str) -> bool {
        is_like(&self.0, name.as_bytes(), is_in_run)
    }
}

/// Whether a text is like a pattern, in which `*` stands for any run of some octets. At a mismatch the
/// last `*` takes one octet more; that is enough, since an earlier one could only leave it less.
fn is_like(mut pattern: &[u8], mut name: &[u8], is_in_run: impl Fn(u8) -> bool) -> bool {
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', rest)) = pattern.split_first() {
            retry = Some((rest, name));
            pattern = rest;
            continue;
        }
        match (pattern.split_first(), name.split_first()) {
            (None, None) => return true,
            (Some((want, pattern_rest)), Some((have, name_rest))) if want == have => {
                (pattern, name) = (pattern_rest, name_rest);
            }
            _ => {
                let Some((after_star, run)) = retry else {
                    return false;
                };
                let Some((taken, rest)) = run.split_first() else {
                    return false;
                };
                if !is_in_run(*taken) {
                    return false;
                }
                retry = Some((after_star, rest));
                (pattern, name) = (after_star, rest);
            }
        }
    }
}

/// `[cluster/]node`, each with `*` for any part; an empty one is any.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NodePattern {
    cluster: Option<String>,
    node: String,
}

impl NodePattern {
    pub(super) fn of(text: &str) -> Result<Self, String> {
        let (cluster, node) = match text.split_once('/') {
            Some((cluster, node)) => (Some(cluster.to_owned()), node),
            None => (None, text),
        };
        if node.contains('/') {
            return Err("too many slashes in pattern".to_owned());
        }
        let node = node.to_owned();
        Ok(Self { cluster, node })
    }

    /// A node without a cluster is of the one called `default`.
    pub(super) fn matches(&self, name: &str) -> bool {
        let (cluster, node) = name.split_once('/').unwrap_or(("default", name));
        let is_it = |pattern: &str, name: &str| {
            pattern.is_empty() || is_like(pattern.as_bytes(), name.as_bytes(), |_| true)
        };
        self.cluster.as_deref().is_none_or(|it| is_it(it, cluster)) && is_it(&self.node, node)
    }
}

const fn is_in_run(byte: u8) -> bool {
    matches!(byte, b'-' | b'.' | b'0'..=b'9' | b'a'..=b'z')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_match_by_namespace_and_prefix() {
        for (pattern, namespace, pod, expected) in [
            ("shop/cart", "shop", "cart-1", true),
            ("shop/cart", "shop", "web-1", false),
            ("shop/cart", "default", "cart-1", false),
            ("shop/", "shop", "", true),
            ("/cart", "shop", "cart-1", true),
            ("/", "", "cart-1", true),
            ("/", "", "", false),
            ("cart", "default", "cart-1", true),
            ("cart", "", "cart-1", false),
        ] {
            let matches = PodPattern::of(pattern).matches(namespace, pod);
            assert_eq!(matches, expected, "{pattern} {namespace}/{pod}");
        }
    }

    #[test]
    fn names_match_whole_with_stars() {
        for (pattern, name, expected) in [
            ("api.example.com", "api.example.com", true),
            ("API.example.com.", "api.example.com", true),
            ("api.example.com", "xapi.example.com", false),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*", "anything.example", true),
            ("*", "under_score.example", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("_dns.*", "_dns.example", true),
        ] {
            let matches = NamePattern::of(pattern).unwrap().matches(name);
            assert_eq!(matches, expected, "{pattern} {name}");
        }
        for bad in ["", ".", "a..", "a_b$", "a b"] {
            assert!(NamePattern::of(bad).is_err(), "{bad}");
        }
    }
}
