//! The end of a socket: which ends are reported, and whether a process caused it.

use aya_ebpf::EbpfContext;
use keepalive_ebpf::{
    Kind, Record, Within,
    kernel::{SHUTDOWN_MASK, errno, state},
};

use crate::{
    hooks::{flags, report, verbose, within},
    maps::{REPORTED, filter, layout},
    process::name_process,
    socket::{Direct, Socket as _, Timer, peek},
};

/// A socket is about to reach CLOSE. Reported if it has SO_KEEPALIVE, if it was reported before, if a timer
/// ends it, or if the end is remarkable.
#[inline(always)]
pub fn closed<C: EbpfContext>(ctx: &C, sk: u64, from: u8) {
    // Removed even if the filter rejects it: the next socket at this address is another one.
    let reported = REPORTED.remove(sk).is_ok();
    // A listener only passes SO_KEEPALIVE on to the sockets it accepts.
    if from == state::LISTEN {
        return;
    }
    let within = within(sk);
    let keepopen = flags(sk) & layout!(flag_keepopen) != 0;
    if !(keepopen
        || reported
        || filter!(all_ends) != 0
        || !matches!(within, Within::Nothing)
        || is_remarkable(sk, from))
    {
        return;
    }
    verbose!(ctx, "closed from state {} within {}", from, within as u8);
    report(sk, Timer::Keepalive, Kind::Close, |record| {
        record.from_state = from;
        record.id.state = state::CLOSE;
        record.within = within;
        if is_act_of_a_process(record) {
            name_process(record);
        }
    });
}

/// Whether this end is worth a report without keepalive: the connection was not answered, or was cut off.
/// An orderly close leaves none of these states to CLOSE, so it costs no read.
#[inline(always)]
fn is_remarkable(sk: u64, from: u8) -> bool {
    match from {
        // The SYN was retransmitted, and then the application gave up.
        state::SYN_SENT => peek::<u8>(sk + u64::from(layout!(icsk_retransmits))) > 0,
        state::ESTABLISHED | state::CLOSE_WAIT => {
            match peek::<u32>(sk + u64::from(layout!(sk_err))) {
                0 => false,
                // `tcp_reset` (tcp_input.c), which purges the queues before. A reset while data was not
                // acknowledged: user space checks the silence before it.
                errno::ECONNRESET | errno::EPIPE => {
                    let socket = Direct(sk);
                    socket.at::<u32>(layout!(write_seq)) != socket.at::<u32>(layout!(snd_una))
                }
                _ => true,
            }
        }
        // The last data of a connection that its owner has closed. In LAST_ACK, which orderly closes leave too,
        // it is not looked for.
        state::FIN_WAIT1 | state::CLOSING => {
            let socket = Direct(sk);
            let undelivered = socket
                .at::<u32>(layout!(write_seq))
                .wrapping_sub(socket.at(layout!(snd_una)));
            undelivered > 1 && socket.at::<u32>(layout!(sk_err)) == errno::ECONNRESET
        }
        _ => false,
    }
}

/// Whether the current task makes this change to CLOSE. It owns the socket then, and either `tcp_abort`
/// runs for it (`ss -K`), or `tcp_close` discards unread data or has a linger time of 0: it has shut down
/// both directions before, and no other path leaves these states with both shut down.
#[inline(always)]
fn is_act_of_a_process(record: &Record) -> bool {
    let is_closing = record.id.shutdown == SHUTDOWN_MASK
        && matches!(
            record.from_state,
            state::ESTABLISHED | state::SYN_SENT | state::CLOSE_WAIT
        );
    record.after.owned && (is_closing || record.id.error == errno::ECONNABORTED)
}
