//! A node and who lives on it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use transport::{NetNs, Netlink, Route, Veth};

/// A node: its network namespace, a bridge, and a mount namespace for its daemon.
pub struct Node {
    /// The network namespace.
    pub ns: NetNs,
    /// Holds the mount namespace; ends when its standard input closes.
    holder: Child,
    _input: ChildStdin,
}

/// A workload, or a server elsewhere: a namespace with one link.
pub struct Workload {
    /// Its name.
    pub name: String,
    /// The network namespace.
    pub ns: NetNs,
    /// The host side of its link.
    pub host_link: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

/// Fails loudly where the tests can't run.
pub fn need_root() {
    let id = Command::new("id")
        .arg("-u")
        .output()
        .map(|out| out.stdout)
        .unwrap_or_default();
    assert!(
        id.starts_with(b"0\n"),
        "this test makes network namespaces and loads BPF: run it as root"
    );
}

impl Node {
    /// A node whose network settings are as hostile as they get: strict reverse path filter,
    /// `src_valid_mark`, INPUT and FORWARD policy DROP but for what a router lets through.
    ///
    /// # Errors
    /// Without root, or where the kernel lacks something.
    pub fn new() -> Result<Self> {
        need_root();
        let ns = NetNs::create()?;
        ns.run(|| {
            no_tentative_addresses()?;
            let netlink = Netlink::open()?;
            netlink.up(netlink.link("lo")?.index)?;
            netlink.add_bridge("br0")?;
            let bridge = netlink.link("br0")?.index;
            netlink.add_address(bridge, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 24)?;
            netlink.add_address(
                bridge,
                IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
                64,
            )?;
            netlink.up(bridge)?;
            for (key, value) in [
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv4/conf/all/rp_filter", "1"),
                ("ipv4/conf/default/rp_filter", "1"),
                ("ipv4/conf/all/src_valid_mark", "1"),
            ] {
                fs::write(format!("/proc/sys/net/{key}"), value).context(key)?;
            }
            anyhow::Ok(())
        })??;
        let mut holder = ns.run(|| {
            Command::new("unshare")
                // A /run and a bpffs of its own: what the daemon names there is named on this node only.
                .args(["--mount", "--propagation", "private", "sh", "-c"])
                .arg("mount -t tmpfs tmpfs /run && mount -t bpf bpf /sys/fs/bpf && exec cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
        })??;
        let input = holder.stdin.take().context("the holder has no input")?;
        let node = Self {
            ns,
            holder,
            _input: input,
        };
        // `unshare` runs before `cat`: wait until the process is what it shall be.
        for _ in 0..500 {
            let comm = fs::read_to_string(format!("/proc/{}/comm", node.holder.id()))?;
            if comm.trim() == "cat" {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        node.firewall()?;
        Ok(node)
    }

    fn firewall(&self) -> Result<()> {
        self.nft(
            "table inet hostile {
               chain input { type filter hook input priority 0; policy drop;
                 ct state established,related accept; iifname lo accept; icmpv6 type { 133-136 } accept; ip protocol icmp accept; }
               chain forward { type filter hook forward priority 0; policy drop;
                 ct state invalid drop; ct state established,related accept; accept; }
             }",
        )
    }

    /// Loads nft rules into the node.
    ///
    /// # Errors
    /// If nft isn't there or refuses.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("rules");
        fs::write(&file, rules)?;
        self.check("nft", &["-f", &file.display().to_string()])
            .map(drop)
    }

    /// A workload on the bridge: 10.0.0.`n`, fd00::`n`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn workload(&self, name: &str, n: u8) -> Result<Workload> {
        let host_link = format!("v{name}");
        let v4 = Ipv4Addr::new(10, 0, 0, n);
        let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n));
        let workload = self.link_up(name, &host_link, (v4, 24), (v6, 64))?;
        self.ns.run(|| {
            let netlink = Netlink::open()?;
            netlink.set_master(netlink.link(&host_link)?.index, netlink.link("br0")?.index)?;
            anyhow::Ok(())
        })??;
        workload.route_by(
            Ipv4Addr::new(10, 0, 0, 1),
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
        )?;
        Ok(workload)
    }

    /// A workload behind a routed veth with proxy ARP, as Calico and kindnet make them: 10.244.0.`n`/32,
    /// gateway 169.254.1.1 and fe80::1.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn routed(&self, name: &str, n: u8) -> Result<Workload> {
        let host_link = format!("v{name}");
        let v4 = Ipv4Addr::new(10, 244, 0, n);
        let v6 = Ipv6Addr::new(0xfd44, 0, 0, 0, 0, 0, 0, u16::from(n));
        let workload = self.link_up(name, &host_link, (v4, 32), (v6, 128))?;
        let gateway4 = Ipv4Addr::new(169, 254, 1, 1);
        let gateway6 = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        self.ns.run(|| {
            let netlink = Netlink::open()?;
            let link = netlink.link(&host_link)?.index;
            fs::write(
                format!("/proc/sys/net/ipv4/conf/{host_link}/proxy_arp"),
                "1",
            )?;
            fs::write(
                format!("/proc/sys/net/ipv4/neigh/{host_link}/proxy_delay"),
                "0",
            )?;
            netlink.add_address(link, IpAddr::V6(gateway6), 64)?;
            for (to, len) in [(IpAddr::V4(v4), 32), (IpAddr::V6(v6), 128)] {
                netlink.add_route(&plain_route((to, len), None, link))?;
            }
            anyhow::Ok(())
        })??;
        workload.ns.run(|| {
            let netlink = Netlink::open()?;
            let link = netlink.link("eth0")?.index;
            netlink.add_route(&plain_route((IpAddr::V4(gateway4), 32), None, link))?;
            anyhow::Ok(())
        })??;
        workload.route_by(gateway4, gateway6)?;
        Ok(workload)
    }

    /// A host beyond the node, 203.0.113.2 and 2001:db8::2, which has no route to the workloads; the
    /// node masquerades IPv4 and IPv6 towards it. All of 198.18.0.0/15 and 2001:db8:1::/48 are its own too.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn elsewhere(&self) -> Result<Workload> {
        let v4 = Ipv4Addr::new(203, 0, 113, 2);
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
        let host = self.link_up("world", "uplink", (v4, 24), (v6, 64))?;
        let (many4, many6) = (
            IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0)),
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0)),
        );
        self.ns.run(|| {
            let netlink = Netlink::open()?;
            let link = netlink.link("uplink")?.index;
            netlink.add_address(link, IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 24)?;
            netlink.add_address(
                link,
                IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
                64,
            )?;
            netlink.add_route(&plain_route((many4, 15), Some(IpAddr::V4(v4)), link))?;
            netlink.add_route(&plain_route((many6, 48), Some(IpAddr::V6(v6)), link))?;
            let any4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            netlink.add_route(&plain_route((any4, 0), Some(IpAddr::V4(v4)), link))?;
            anyhow::Ok(())
        })??;
        host.ns.run(|| {
            let netlink = Netlink::open()?;
            let lo = netlink.link("lo")?.index;
            for to in [(many4, 15), (many6, 48)] {
                netlink.add_route(&Route {
                    local: true,
                    table: 255,
                    ..plain_route(to, None, lo)
                })?;
            }
            anyhow::Ok(())
        })??;
        self.nft(
            "table inet nat { chain post { type nat hook postrouting priority 100; oifname uplink masquerade; }
}",
        )?;
        Ok(host)
    }

    #[expect(clippy::too_many_arguments, reason = "two names and two prefixes")]
    fn link_up(
        &self,
        name: &str,
        host_link: &str,
        v4: (Ipv4Addr, u8),
        v6: (Ipv6Addr, u8),
    ) -> Result<Workload> {
        let ns = NetNs::create()?;
        ns.run(no_tentative_addresses)??;
        self.ns.run(|| {
            let netlink = Netlink::open()?;
            let veth = Veth {
                name: host_link,
                peer: "eth0",
                peer_ns: &ns,
                peer_mac: None,
                mtu: 1_500,
                arp: true,
            };
            netlink.add_veth(&veth)?;
            netlink.up(netlink.link(host_link)?.index)?;
            anyhow::Ok(())
        })??;
        ns.run(|| {
            let netlink = Netlink::open()?;
            netlink.up(netlink.link("lo")?.index)?;
            let link = netlink.link("eth0")?.index;
            netlink.add_address(link, IpAddr::V4(v4.0), v4.1)?;
            netlink.add_address(link, IpAddr::V6(v6.0), v6.1)?;
            netlink.up(link)?;
            anyhow::Ok(())
        })??;
        Ok(Workload {
            name: name.to_owned(),
            ns,
            host_link: host_link.to_owned(),
            v4: v4.0,
            v6: v6.0,
        })
    }

    /// A command on the node, in its network and mount namespaces.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let pid = self.holder.id();
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{pid}/ns/net"))
            .arg(format!("--mount=/proc/{pid}/ns/mnt"));
        command.arg("--").arg(program);
        command
    }

    /// Runs a command on the node and gives what it printed.
    ///
    /// # Errors
    /// If it can't be run or fails.
    pub fn check(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self
            .command(program)
            .args(args)
            .output()
            .context(program.to_owned())?;
        checked(program, &output)
    }

    /// Everything of the node's network that must be as it was found: rules, routes, firewall,
    /// sysctls and links, all without the side link's own device.
    ///
    /// # Errors
    /// If one of them can't be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut all = String::new();
        for args in [
            &["ip", "rule"][..],
            &["ip", "-6", "rule"],
            &["ip", "route", "show", "table", "all"],
            &["ip", "-6", "route", "show", "table", "all"],
            &["ip", "-o", "address"],
            &["nft", "-s", "list", "ruleset"],
            &["sysctl", "-a", "--pattern", "^net"],
            &["tc", "qdisc"],
        ] {
            let (program, args) = args.split_first().context("a command")?;
            let text = self.check(program, args)?;
            let kept = text
                .lines()
                .filter(|line| !is_side_link(line) && !is_count(line));
            for line in kept {
                all.push_str(line);
                all.push('\n');
            }
        }
        Ok(all)
    }
}

/// Names of the side link's device, as `transport` makes them.
fn is_side_link(line: &str) -> bool {
    line.split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| word.len() == 11 && word.starts_with("ng") && word.ends_with('h'))
}

/// Sysctls that count and don't set.
fn is_count(line: &str) -> bool {
    ["nf_conntrack_count", "max_lock_depth"]
        .iter()
        .any(|word| line.contains(word))
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl Workload {
    /// A path to its namespace, for as long as this value lives.
    #[must_use]
    pub fn ns_path(&self) -> PathBuf {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.ns.as_fd().as_raw_fd()
        )
        .into()
    }

    /// Runs a command in it and gives what it printed, also if it failed.
    ///
    /// # Errors
    /// If it can't be run.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<Output> {
        in_ns(&self.ns, Command::new(program).args(args))
    }

    /// Runs a command in it and gives what it printed.
    ///
    /// # Errors
    /// If it can't be run or fails.
    pub fn check(&self, program: &str, args: &[&str]) -> Result<String> {
        checked(program, &self.output(program, args)?)
    }

    /// What `dig` prints with `+short`, one try, two seconds.
    ///
    /// # Errors
    /// If dig isn't there.
    pub fn dig(&self, server: IpAddr, args: &[&str]) -> Result<String> {
        let mut all = vec![
            "+tries=1".to_owned(),
            "+time=2".to_owned(),
            format!("@{server}"),
        ];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        let args: Vec<&str> = all.iter().map(String::as_str).collect();
        let output = self.output("dig", &args)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The number behind a name in `/proc/net/snmp` or `/proc/net/netstat` of the namespace.
    ///
    /// # Errors
    /// If it isn't there.
    pub fn kernel_count(&self, group: &str, name: &str) -> Result<u64> {
        let text = self.ns.run(|| {
            anyhow::Ok(
                fs::read_to_string("/proc/thread-self/net/snmp")?
                    + &fs::read_to_string("/proc/thread-self/net/netstat")?,
            )
        })??;
        let mut lines = text
            .lines()
            .filter(|line| line.starts_with(&format!("{group}:")));
        let (names, values) = (
            lines.next().context("names")?,
            lines.next().context("values")?,
        );
        let place = names
            .split_whitespace()
            .position(|word| word == name)
            .context(name.to_owned())?;
        Ok(values
            .split_whitespace()
            .nth(place)
            .context("value")?
            .parse()?)
    }

    fn route_by(&self, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
        self.ns.run(|| {
            let netlink = Netlink::open()?;
            let link = netlink.link("eth0")?.index;
            let (any4, any6) = (
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            );
            netlink.add_route(&plain_route((any4, 0), Some(IpAddr::V4(v4)), link))?;
            netlink.add_route(&plain_route((any6, 0), Some(IpAddr::V6(v6)), link))?;
            anyhow::Ok(())
        })?
    }
}

/// Runs a command in a namespace to its end.
///
/// # Errors
/// If it can't be run.
pub fn in_ns(ns: &NetNs, command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    ns.run(|| command.stdin(Stdio::null()).output())?
        .context(program)
}

/// Without duplicate address detection, which takes a second and changes tables by itself.
fn no_tentative_addresses() -> Result<()> {
    for which in ["all", "default"] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0")?;
    }
    Ok(())
}

fn checked(program: &str, output: &Output) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{program}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

fn plain_route(to: (IpAddr, u8), via: Option<IpAddr>, link: u32) -> Route {
    Route {
        to,
        via,
        link,
        table: 254,
        local: false,
        mtu: None,
    }
}
