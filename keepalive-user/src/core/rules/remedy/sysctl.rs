//! Sysctls of a network namespace, as a command that sets them there.

use super::Patient;
use crate::core::{event::Sysctl, format::name};

/// The sysctls are read when a timer is armed (`keepalive_time_when`, include/net/tcp.h).
pub const NEW_ONLY: &str =
    "affects new connections only: open connections keep the timer they have";

/// Sets these sysctls in the network namespace of the socket.
pub fn command(patient: Patient<'_>, values: &[(Sysctl, u64)]) -> String {
    let values: Vec<String> = values
        .iter()
        .map(|&(sysctl, value)| format!("net.ipv4.{}={value}", name(sysctl)))
        .collect();
    let command = format!("sysctl -w {}", values.join(" "));
    let netns = patient.socket.socket.netns;
    let pid = patient.socket.process.as_ref().map(|process| process.pid);
    let place = match (patient.around.is_here(netns), pid) {
        (true, _) => format!("`{command}`"),
        (false, Some(pid)) => format!("`nsenter -t {pid} -n {command}`"),
        (false, None) => format!("`{command}` in network namespace {netns}"),
    };
    format!("{place} ({NEW_ONLY})")
}
