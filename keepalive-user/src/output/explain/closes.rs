//! How such connections were closed while they were watched.

use crate::core::{
    event::{IdleCloses, ListedSocket},
    format::{millis, plural},
};

/// One sentence; two if both sides closed some.
pub fn sentence(owner: &IdleCloses, peer: &IdleCloses, socket: Option<&ListedSocket>) -> String {
    let watched = millis(owner.watched_ms);
    if owner.closed == 0 && peer.closed == 0 {
        return format!("Watched for {watched}: neither side closed such a connection.");
    }
    let time = socket
        .and_then(|socket| socket.keepalive)
        .filter(|keepalive| keepalive.enabled)
        .map(|keepalive| keepalive.time_ms);
    let sides: Vec<String> = [("owner", owner), ("peer", peer)]
        .into_iter()
        .filter(|(_, closes)| closes.closed > 0)
        .map(|(side, closes)| {
            format!(
                "the {side} closed {} first{}",
                plural(closes.closed, "such connection"),
                when(closes, time)
            )
        })
        .collect();
    format!("Watched for {watched}: {}.", sides.join("; "))
}

/// How long connections were idle, and what that means for keepalive.
fn when(closes: &IdleCloses, time: Option<u64>) -> String {
    let Some(idle) = closes.idle_ms else {
        return String::new();
    };
    let before = match time {
        Some(time) if idle.most < time => format!(
            ", before the first probe is due ({}): therefore no probe is sent",
            millis(time)
        ),
        _ => String::new(),
    };
    let idle = match [idle.least, idle.most].map(millis) {
        [least, most] if least == most => least,
        [least, most] => format!("{least} to {most}"),
    };
    format!(", {idle} after the last data was received{before}")
}
