//! What stands between a workload and its server on nodes that there are: services by DNAT, servers of
//! the node's own, an uplink without a link layer, narrow links.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use transport::NetNs;

use crate::{Node, Workload, in_ns};

impl Node {
    /// Whether the bridge's packets pass iptables and nftables: "0" or "1".
    ///
    /// # Errors
    /// If there is no br_netfilter.
    pub fn set_br_netfilter(&self, value: &str) -> Result<()> {
        for table in ["iptables", "ip6tables"] {
            self.sysctl(&format!("net.bridge.bridge-nf-call-{table}"), value)?;
        }
        Ok(())
    }

    /// Sets a sysctl of the node.
    ///
    /// # Errors
    /// If it isn't there.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.check("sysctl", &["-qw", &format!("{key}={value}")])
            .map(drop)
    }

    /// A virtual address of a DNS server, as kube-proxy makes it: DNAT of what passes and of what the
    /// node itself sends.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn service(&self, vip: (Ipv4Addr, Ipv6Addr), backend: &Workload) -> Result<()> {
        let dnat = format!(
            "ip daddr {} meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {}; \
             ip6 daddr {} meta l4proto {{ tcp, udp }} th dport 53 dnat ip6 to {};",
            vip.0, backend.v4, vip.1, backend.v6
        );
        self.nft(&format!(
            "table inet services {{
               chain pre {{ type nat hook prerouting priority -100; {dnat} }}
               chain out {{ type nat hook output priority -100; {dnat} }}
             }}"
        ))
    }

    /// An address of the node's own, on its loopback, with port 53 open to workloads and not tracked: a
    /// node-local DNS cache.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn local_server(&self, address: IpAddr) -> Result<()> {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        let len = if address.is_ipv4() { 32 } else { 128 };
        self.check(
            "ip",
            &["addr", "add", &format!("{address}/{len}"), "dev", "lo"],
        )?;
        self.nft(&format!(
            "table inet hostile {{
               chain input {{ meta l4proto {{ tcp, udp }} th dport 53 accept; }}
             }}
             table inet raw {{
               chain pre {{ type filter hook prerouting priority -300;
                 {family} daddr {address} meta l4proto {{ tcp, udp }} th dport 53 notrack; }}
               chain out {{ type filter hook output priority -300;
                 {family} saddr {address} meta l4proto {{ tcp, udp }} th sport 53 notrack; }}
             }}"
        ))
    }

    /// Sets the MTU of both ends of a workload's link.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_mtu(&self, workload: &Workload, mtu: u32) -> Result<()> {
        let mtu = mtu.to_string();
        let set = |link| ["link", "set", link, "mtu", &mtu];
        self.check("ip", &set(&workload.host_link))?;
        workload.check("ip", &set("eth0")).map(drop)
    }

    /// A host beyond a tun device, which is the node's only uplink: 203.0.113.2 and 2001:db8::2. The node
    /// masquerades towards it.
    ///
    /// # Errors
    /// If socat isn't there, or the kernel refuses.
    pub fn beyond_tun(&self) -> Result<(Workload, Tunnel)> {
        let ns = NetNs::create()?;
        let tunnel = Tunnel::between(&self.ns, &ns)?;
        let inside = |args: &str| -> Result<()> {
            let output = in_ns(&ns, Command::new("ip").args(args.split(' ')))?;
            ensure!(output.status.success(), "ip {args}: {output:?}");
            Ok(())
        };
        inside("link set lo up")?;
        for (here, there) in [
            ("203.0.113.1/24", "203.0.113.2/24"),
            ("2001:db8::1/64", "2001:db8::2/64"),
        ] {
            let node = ["addr", "add", here, "dev", TUN, "nodad"];
            self.check("ip", &node)?;
            inside(&format!("addr add {there} dev {TUN} nodad"))?;
        }
        for family in ["-4", "-6"] {
            self.check("ip", &[family, "route", "add", "default", "dev", TUN])?;
        }
        self.nft(&format!(
            "table inet nat {{ chain post {{ type nat hook postrouting priority 100; oifname {TUN} masquerade; }}\n}}"
        ))?;
        let world = Workload {
            name: "world".to_owned(),
            ns,
            host_link: TUN.to_owned(),
            v4: Ipv4Addr::new(203, 0, 113, 2),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
        };
        Ok((world, tunnel))
    }
}

/// The device at each end of a [`Tunnel`].
const TUN: &str = "tun0";

/// Two tun devices, and what carries packets from one to the other.
pub struct Tunnel {
    ends: Vec<Child>,
    dir: TempDir,
}

impl Tunnel {
    fn between(one: &NetNs, other: &NetNs) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut tunnel = Self {
            ends: Vec::new(),
            dir,
        };
        let at = |name: &str| tunnel.dir.path().join(name).display().to_string();
        let paths = [(at("a"), at("b")), (at("b"), at("a"))];
        for (ns, (own, peer)) in [one, other].into_iter().zip(paths) {
            let child = ns.run(|| {
                Command::new("socat")
                    .arg(format!("TUN,tun-name={TUN},tun-type=tun,iff-no-pi"))
                    .arg(format!("UNIX-SENDTO:{peer},bind={own}"))
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .context("socat")
            })??;
            tunnel.ends.push(child);
        }
        // Before the first packet both must listen: one that can't send ends.
        for name in ["a", "b"] {
            wait_until(|| Ok(tunnel.dir.path().join(name).exists()))?;
        }
        for ns in [one, other] {
            let ip = |words: &[&str]| in_ns(ns, Command::new("ip").args(words));
            wait_until(|| Ok(ip(&["link", "show", TUN])?.status.success()))?;
            ip(&["link", "set", TUN, "up"])?;
        }
        Ok(tunnel)
    }
}

fn wait_until(mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..200 {
        if is_so()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    anyhow::bail!("socat made no {TUN}")
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        for end in &mut self.ends {
            let _ = end.kill();
            let _ = end.wait();
        }
    }
}

impl Workload {
    /// Sends a frame as it is, link layer and all.
    ///
    /// # Errors
    /// If socat isn't there or fails.
    pub fn send_frame(&self, frame: &[u8]) -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("frame");
        fs::write(&file, frame)?;
        self.check("socat", &["-u", &from_file(&file), "INTERFACE:eth0"])
            .map(drop)
    }
}

fn from_file(path: &Path) -> String {
    format!("OPEN:{},rdonly", path.display())
}
