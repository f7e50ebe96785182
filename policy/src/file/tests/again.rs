//! What a loader reads anew.

use super::*;

fn policy(name: &str, cidr: &str) -> String {
    cnp(&format!("egress: [{{toCIDR: [{cidr}]}}]")).replace("name: p}", &format!("name: {name}}}"))
}

fn addresses(loaded: &Loaded) -> Vec<*const Policy> {
    loaded.set.policies.iter().map(Arc::as_ptr).collect()
}

#[test]
fn a_file_that_did_not_change_gives_the_same_policies() {
    let mut loader = Loader::new();
    let a = source("a.yaml", &policy("a", "10.0.0.0/8"));
    let b = |cidr: &str| source("b.yaml", &policy("b", cidr));
    let first = loader.load(&[a.clone(), b("10.1.0.0/16")]);
    let second = loader.load(&[a.clone(), b("10.2.0.0/16")]);
    let (before, after) = (addresses(&first), addresses(&second));
    assert_eq!(before[0], after[0]);
    assert_ne!(before[1], after[1]);
    assert_eq!(
        loader.load(&[a]).set.len(),
        1,
        "a file that is gone is gone"
    );
}

#[test]
fn problems_of_a_file_that_did_not_change_are_told_again() {
    let mut loader = Loader::new();
    let bad = source("bad.yaml", &policy("bad", "10.0.0.0"));
    let first = loader.load(std::slice::from_ref(&bad));
    let again = loader.load(&[source("a.yaml", &policy("a", "10.0.0.0/8")), bad.clone()]);
    assert!(first.has_errors());
    assert_eq!(again.problems, first.problems);
    let twice = loader.load(&[bad.clone(), bad]);
    assert!(twice.has_errors());
}

#[test]
fn a_group_that_changed_reaches_the_files_that_refer_to_it() {
    let group = |cidr: &str| {
        let text = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {{name: g}}\nspec: {{externalCIDRs: [{cidr}]}}\n"
        );
        source("g.yaml", &text)
    };
    let user = source("u.yaml", &cnp("egress: [{toCIDRSet: [{cidrGroupRef: g}]}]"));
    let mut loader = Loader::new();
    let prefixes = |loaded: &Loaded| -> Vec<String> {
        assert!(!loaded.has_errors(), "{:#?}", loaded.problems);
        let items = loaded.set.items().flat_map(|(_, _, item)| item.prefixes());
        items.map(|prefix| prefix.to_string()).collect()
    };
    let first = loader.load(&[user.clone(), group("10.0.0.0/8")]);
    assert_eq!(prefixes(&first), ["10.0.0.0/8"]);
    let second = loader.load(&[user.clone(), group("192.0.2.0/24")]);
    assert_eq!(prefixes(&second), ["192.0.2.0/24"]);
    assert!(loader.load(&[user]).has_errors(), "the group is gone");
}
