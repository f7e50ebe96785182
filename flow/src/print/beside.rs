//! Lines about what is no flow: nodes, and what an agent did.

use std::fmt::Write;
use std::sync::Arc;

use super::{Printer, escape};
use crate::agent::{AgentEvent, AgentLine};
use crate::node_status::{NodeChange, NodeStatus};

/// Characters of nodes' names beyond which they are only counted.
const NODES_MAX: usize = 50;

impl Printer {
    /// Appends the line about nodes, without a newline.
    pub fn write_node_status(&self, status: &NodeStatus, out: &mut String) {
        self.write_time(status.time, out);
        out.push_str(" [");
        escape(&status.node_name, out);
        out.push_str("]: ");
        let count = status.nodes.len();
        match status.change {
            NodeChange::Connected => write!(out, "Receiving flows from {count} nodes: "),
            NodeChange::Unavailable => write!(out, "{count} nodes are unavailable: "),
            NodeChange::Gone => write!(out, "{count} nodes removed from cluster: "),
            NodeChange::Error => write!(out, "Error {:?} on {count} nodes: ", status.message),
            NodeChange::Unknown => write!(out, "unknown node status of {count} nodes: "),
        }
        .ok();
        write_nodes(&status.nodes, out);
    }

    /// Appends the line about what an agent did, `-o compact`, without a newline.
    pub fn write_agent(&self, line: &AgentLine, out: &mut String) {
        self.write_time(line.time, out);
        if self.node_name {
            out.push_str(" [");
            escape(&line.node_name, out);
            out.push(']');
        }
        out.push_str(": ");
        out.push_str(line.event.name());
        out.push_str(" (");
        self.write_details(line, out);
        out.push(')');
    }

    /// Its cells in the forms of many lines.
    pub(super) fn agent_cells(&self, line: &AgentLine) -> Vec<(&'static str, String)> {
        let (mut time, mut node, mut details) = (String::new(), String::new(), String::new());
        self.write_time(line.time, &mut time);
        escape(&line.node_name, &mut node);
        self.write_details(line, &mut details);
        let mut cells = vec![("TIMESTAMP", time)];
        if self.node_name {
            cells.push(("NODE", node));
        }
        cells.extend([("TYPE", line.event.name().to_owned()), ("DETAILS", details)]);
        cells
    }

    fn write_details(&self, line: &AgentLine, out: &mut String) {
        let mut text = String::new();
        match &line.event {
            AgentEvent::Started => {
                text.push_str("start time: ");
                self.write_time(line.time, &mut text);
            }
            AgentEvent::PolicyUpdated {
                labels,
                revision,
                rule_count,
            } => {
                let labels = labels.join(",");
                write!(
                    text,
                    "labels: [{labels}], revision: {revision}, count: {rule_count}"
                )
                .ok();
            }
            AgentEvent::EndpointCreated(endpoint) | AgentEvent::EndpointDeleted(endpoint) => {
                write!(text, "id: {}", endpoint.id).ok();
                for (word, value) in [
                    ("namespace", &endpoint.namespace),
                    ("pod name", &endpoint.pod_name),
                ] {
                    if !value.is_empty() {
                        write!(text, ", {word}: {value}").ok();
                    }
                }
            }
            AgentEvent::IpcacheUpserted { cidr, identity, .. }
            | AgentEvent::IpcacheDeleted { cidr, identity } => {
                write!(text, "cidr: {cidr}, identity: {identity}").ok();
                if let Some(old) = line.event.old_identity() {
                    write!(text, ", old identity: {old}").ok();
                }
                // There is no encryption here.
                text.push_str(", encrypt key: 0");
            }
        }
        escape(&text, out);
    }
}

/// The names as far as there is room, and how many there are more; the first is always there.
fn write_nodes(nodes: &[Arc<str>], out: &mut String) {
    const BETWEEN: &str = ", ";
    let mut octets = 0;
    let fits = |(at, node): &(usize, &Arc<str>)| {
        octets += node.len() + BETWEEN.len();
        *at == 0 || octets <= NODES_MAX
    };
    let shown = nodes.iter().enumerate().take_while(fits).count();
    for (at, node) in nodes.iter().take(shown).enumerate() {
        out.push_str(if at == 0 { "" } else { BETWEEN });
        escape(node, out);
    }
    if shown < nodes.len() {
        write!(out, " (and {} more)", nodes.len() - shown).ok();
    }
}
