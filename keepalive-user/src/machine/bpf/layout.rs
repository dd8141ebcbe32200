//! # The kernel's layout
//!
//! Where the running kernel keeps every field the programs read, found in its BTF by name, with
//! alternatives where kernels differ. Versions are never compared: backports make them
//! meaningless (`icsk_keepalive_timer` is in 6.1.192 and 7.2, but not in 6.12 and 6.18).
//!
//! A layout from here is a claim; `self_test.rs` checks it on a socket of our own.

use anyhow::{Context, Result, ensure};
use keepalive_ebpf::{ABSENT, KernelLayout, SOCK_COPY_MAX};
use zerocopy::IntoBytes;

use super::btf::{Btf, Field};

/// A layout and what is worth telling about how it was found.
pub struct Resolved {
    pub layout: KernelLayout,
    /// The member that is the keepalive timer here: `inet_connection_sock.icsk_keepalive_timer`.
    pub keepalive_timer: &'static str,
    /// The member that is the write timer here.
    pub write_timer: &'static str,
    /// Optional fields this kernel does not have: what they tell is unknown or constant here.
    pub absent: Vec<&'static str>,
    /// Whether this kernel withholds BPF programs from process 1; see [`withholds_from_init`].
    pub withholds_from_init: bool,
}

impl Resolved {
    /// The layout as a recording keeps it.
    pub fn words(&self) -> Vec<u32> {
        let bytes = self.layout.as_bytes().chunks_exact(4);
        bytes
            .filter_map(|word| word.first_chunk().copied().map(u32::from_ne_bytes))
            .collect()
    }
}

/// Finds all fields.
///
/// # Errors
/// Names the first required field that the BTF does not have in the expected size.
pub fn resolve(btf: &Btf<'_>) -> Result<Resolved> {
    let mut finder = Finder {
        btf,
        end: 0,
        absent: Vec::new(),
    };
    finder.check_nesting()?;
    let (keepalive_timer_name, keepalive_timer) =
        finder.first(&["inet_connection_sock.icsk_keepalive_timer", "sock.sk_timer"])?;
    let (write_timer_name, write_timer) = finder.first(&[
        "inet_connection_sock.icsk_retransmit_timer",
        "sock.tcp_retransmit_timer",
    ])?;
    let timer_expires = finder.outside("timer_list.expires", 8)?;
    let write_expires = match btf.field("inet_connection_sock", "icsk_timeout") {
        Some(_) => finder.socket("inet_connection_sock.icsk_timeout", 8)?,
        None => write_timer + timer_expires,
    };
    let mut layout = KernelLayout {
        copy_len: 0,
        keepalive_timer,
        write_timer,
        write_expires,
        timer_pprev: finder.outside("timer_list.entry.pprev", 8)?,
        timer_expires,
        timer_function: finder.outside("timer_list.function", 8)?,
        flag_dead: finder.bit("SOCK_DEAD")?,
        flag_keepopen: finder.bit("SOCK_KEEPOPEN")?,
        ..KernelLayout::default()
    };
    finder.sock(&mut layout)?;
    finder.connection(&mut layout)?;
    finder.tcp(&mut layout)?;
    finder.net(&mut layout)?;
    finder.owners(&mut layout)?;
    layout.copy_len = finder.end.next_multiple_of(8);
    finder.mini(&mut layout)?;
    ensure!(
        layout.copy_len as usize <= SOCK_COPY_MAX,
        "struct tcp_sock is too large: fields up to byte {}, at most {SOCK_COPY_MAX} are copied",
        layout.copy_len
    );
    Ok(Resolved {
        layout,
        keepalive_timer: keepalive_timer_name,
        write_timer: write_timer_name,
        absent: finder.absent,
        withholds_from_init: withholds_from_init(btf),
    })
}

/// Some vendors' kernels run a tracing program that process 1 did not load only while another process is
/// the current one (`bpf_prog_aux.init_owned`, looked at in `bpf_trace_run*`). A timer's softirq that
/// interrupts process 1 then runs no program, whatever it is attached to, and no miss is counted.
/// Measured on such a 6.18.44: of 40,000 timer runs 796 were not seen, and in just these ftrace shows
/// a thread of process 1.
fn withholds_from_init(btf: &Btf<'_>) -> bool {
    btf.field("bpf_prog_aux", "init_owned").is_some()
}

struct Finder<'a> {
    btf: &'a Btf<'a>,
    /// End of the last socket field found.
    end: u32,
    absent: Vec<&'static str>,
}

impl Finder<'_> {
    /// All socket structs must start at the same address: offsets are used on one pointer.
    fn check_nesting(&self) -> Result<()> {
        for (outer, inner) in [
            ("tcp_sock", "inet_conn"),
            ("inet_connection_sock", "icsk_inet"),
            ("inet_sock", "sk"),
            ("sock", "__sk_common"),
        ] {
            let field = self.find(outer, inner)?;
            ensure!(
                field.offset == 0,
                "{outer}.{inner} is at {}, not at 0",
                field.offset
            );
        }
        Ok(())
    }

    fn sock(&mut self, layout: &mut KernelLayout) -> Result<()> {
        layout.skc_family = self.socket("sock_common.skc_family", 2)?;
        layout.skc_state = self.socket("sock_common.skc_state", 1)?;
        layout.skc_dport = self.socket("sock_common.skc_dport", 2)?;
        layout.skc_num = self.socket("sock_common.skc_num", 2)?;
        layout.skc_daddr = self.socket("sock_common.skc_daddr", 4)?;
        layout.skc_rcv_saddr = self.socket("sock_common.skc_rcv_saddr", 4)?;
        layout.skc_v6_daddr = self.optional("sock_common.skc_v6_daddr", 16);
        layout.skc_v6_rcv_saddr = self.optional("sock_common.skc_v6_rcv_saddr", 16);
        layout.skc_net = self.socket("sock_common.skc_net", 8)?;
        layout.skc_cookie = self.socket("sock_common.skc_cookie", 8)?;
        layout.skc_flags = self.socket("sock_common.skc_flags", 8)?;
        layout.sk_protocol = self.socket("sock.sk_protocol", 2)?;
        layout.sk_err = self.socket("sock.sk_err", 4)?;
        layout.sk_err_soft = self.socket("sock.sk_err_soft", 4)?;
        layout.sk_shutdown = self.socket("sock.sk_shutdown", 1)?;
        layout.sk_lock_owned = self.socket("sock.sk_lock.owned", 4)?;
        layout.sk_socket = self.socket("sock.sk_socket", 8)?;
        layout.sk_ino = match self.btf.field("sock", "sk_ino") {
            Some(_) => self.socket("sock.sk_ino", 8)?,
            None => ABSENT,
        };
        layout.sk_ack_backlog = self.socket("sock.sk_ack_backlog", 4)?;
        layout.sk_max_ack_backlog = self.socket("sock.sk_max_ack_backlog", 4)?;
        layout.inet_sport = self.socket("inet_sock.inet_sport", 2)?;
        Ok(())
    }

    fn connection(&mut self, layout: &mut KernelLayout) -> Result<()> {
        layout.icsk_probes_out = self.socket("inet_connection_sock.icsk_probes_out", 1)?;
        layout.icsk_backoff = self.socket("inet_connection_sock.icsk_backoff", 1)?;
        layout.icsk_retransmits = self.socket("inet_connection_sock.icsk_retransmits", 1)?;
        layout.icsk_pending = self.socket("inet_connection_sock.icsk_pending", 1)?;
        layout.icsk_user_timeout = self.socket("inet_connection_sock.icsk_user_timeout", 4)?;
        layout.icsk_probes_tstamp = self.socket("inet_connection_sock.icsk_probes_tstamp", 4)?;
        layout.icsk_rto = self.socket("inet_connection_sock.icsk_rto", 4)?;
        layout.icsk_rto_max = self.optional("inet_connection_sock.icsk_rto_max", 4);
        layout.icsk_ack_lrcvtime = self.socket("inet_connection_sock.icsk_ack.lrcvtime", 4)?;
        layout.icsk_ack_pending = self.socket("inet_connection_sock.icsk_ack.pending", 1)?;
        layout.delack_expires = match self.btf.field("inet_connection_sock", "icsk_ack.timeout") {
            Some(_) => self.socket("inet_connection_sock.icsk_ack.timeout", 8)?,
            None => {
                self.socket("inet_connection_sock.icsk_delack_timer", 0)? + layout.timer_expires
            }
        };
        Ok(())
    }

    fn tcp(&mut self, layout: &mut KernelLayout) -> Result<()> {
        layout.keepalive_time = self.socket("tcp_sock.keepalive_time", 4)?;
        layout.keepalive_intvl = self.socket("tcp_sock.keepalive_intvl", 4)?;
        layout.keepalive_probes = self.socket("tcp_sock.keepalive_probes", 1)?;
        layout.packets_out = self.socket("tcp_sock.packets_out", 4)?;
        layout.write_seq = self.socket("tcp_sock.write_seq", 4)?;
        layout.snd_nxt = self.socket("tcp_sock.snd_nxt", 4)?;
        layout.snd_una = self.socket("tcp_sock.snd_una", 4)?;
        layout.snd_wnd = self.socket("tcp_sock.snd_wnd", 4)?;
        layout.segs_out = self.socket("tcp_sock.segs_out", 4)?;
        layout.rcv_nxt = self.socket("tcp_sock.rcv_nxt", 4)?;
        layout.copied_seq = self.socket("tcp_sock.copied_seq", 4)?;
        layout.rcv_tstamp = self.socket("tcp_sock.rcv_tstamp", 4)?;
        layout.tcp_clock_cache = self.socket("tcp_sock.tcp_clock_cache", 8)?;
        layout.is_mptcp = self.optional("tcp_sock.is_mptcp", 1);
        Ok(())
    }

    fn net(&self, layout: &mut KernelLayout) -> Result<()> {
        layout.net_inum = self.outside("net.ns.inum", 4)?;
        layout.sysctl_keepalive_time = self.outside("net.ipv4.sysctl_tcp_keepalive_time", 4)?;
        layout.sysctl_keepalive_intvl = self.outside("net.ipv4.sysctl_tcp_keepalive_intvl", 4)?;
        layout.sysctl_keepalive_probes = self.outside("net.ipv4.sysctl_tcp_keepalive_probes", 1)?;
        layout.sysctl_retries2 = self.outside("net.ipv4.sysctl_tcp_retries2", 1)?;
        Ok(())
    }

    /// The small sockets of TIME_WAIT and SYN_RECV, which share only `struct sock_common`.
    fn mini(&mut self, layout: &mut KernelLayout) -> Result<()> {
        let common = self.outside("sock_common.skc_cookie", 8)? + 8;
        let v6 = match layout.skc_v6_rcv_saddr {
            ABSENT => 0,
            offset => offset + 16,
        };
        for (structure, member) in [
            ("inet_timewait_sock", "__tw_common"),
            ("request_sock", "__req_common"),
        ] {
            let field = self.find(structure, member)?;
            ensure!(
                field.offset == 0,
                "{structure}.{member} is at {}, not at 0",
                field.offset
            );
        }
        layout.tw_expires = self.outside("inet_timewait_sock.tw_timer", 0)? + layout.timer_expires;
        layout.tw_substate = self.outside("inet_timewait_sock.tw_substate", 1)?;
        layout.rsk_expires = self.outside("request_sock.rsk_timer", 0)? + layout.timer_expires;
        layout.rsk_num_retrans = self.outside("request_sock.num_retrans", 1)?;
        layout.mini_copy_len = [
            common,
            v6,
            layout.tw_expires + 8,
            layout.tw_substate + 1,
            layout.rsk_expires + 8,
            layout.rsk_num_retrans + 1,
        ]
        .into_iter()
        .max()
        .unwrap_or_default()
        .next_multiple_of(8);
        ensure!(
            layout.mini_copy_len <= layout.copy_len,
            "the small sockets are larger than struct tcp_sock"
        );
        Ok(())
    }

    /// The way to the socket's inode and cgroup.
    fn owners(&mut self, layout: &mut KernelLayout) -> Result<()> {
        let socket = self.outside("socket_alloc.socket", 0)?;
        ensure!(socket == 0, "socket_alloc.socket is at {socket}, not at 0");
        layout.socket_inode = self.outside("socket_alloc.vfs_inode.i_ino", 8)?;
        layout.file_inode = self.outside("file.f_inode", 8)?;
        layout.inode_number = self.outside("inode.i_ino", 8)?;
        layout.inode_mode = self.outside("inode.i_mode", 2)?;
        layout.task_tgid = self.outside("task_struct.tgid", 4)?;
        layout.task_flags = self.outside("task_struct.flags", 4)?;
        layout.task_group_leader = self.outside("task_struct.group_leader", 8)?;
        layout.task_comm = self.outside("task_struct.comm", 16)?;
        layout.socket_sk = self.outside("socket.sk", 8)?;
        layout.cgroup_kn = self.optional_outside("cgroup.kn", 8);
        layout.kn_id = self.optional_outside("kernfs_node.id", 8);
        // Up to 5.14 one word is either a cgroup pointer or, tagged in its low bits, data.
        (layout.sk_cgrp_data, layout.cgroup_tag_mask) =
            match self.btf.field("sock", "sk_cgrp_data.cgroup") {
                Some(_) => (self.optional("sock.sk_cgrp_data.cgroup", 8), 0),
                None => (self.optional("sock.sk_cgrp_data.val", 8), 3),
            };
        Ok(())
    }

    fn find(&self, structure: &str, path: &str) -> Result<Field> {
        self.btf
            .field(structure, path)
            .with_context(|| format!("this kernel's BTF has no {structure}.{path}"))
    }

    /// `size` 0 takes any.
    fn sized(&self, name: &'static str, size: u32) -> Result<Field> {
        let (structure, path) = name.split_once('.').context("not a struct and a member")?;
        let field = self.find(structure, path)?;
        ensure!(
            size == 0 || field.size == size,
            "{name} has {} bytes in this kernel's BTF, expected {size}",
            field.size
        );
        Ok(field)
    }

    /// A field of the socket, which the copy must include.
    fn socket(&mut self, name: &'static str, size: u32) -> Result<u32> {
        let field = self.sized(name, size)?;
        self.end = self.end.max(field.offset + field.size);
        Ok(field.offset)
    }

    /// A field of another struct.
    fn outside(&self, name: &'static str, size: u32) -> Result<u32> {
        Ok(self.sized(name, size)?.offset)
    }

    fn optional(&mut self, name: &'static str, size: u32) -> u32 {
        self.socket(name, size).unwrap_or_else(|_| {
            self.absent.push(name);
            ABSENT
        })
    }

    fn optional_outside(&mut self, name: &'static str, size: u32) -> u32 {
        self.outside(name, size).unwrap_or_else(|_| {
            self.absent.push(name);
            ABSENT
        })
    }

    /// The first of the alternatives that this kernel has, a `struct timer_list`.
    fn first(&mut self, names: &[&'static str]) -> Result<(&'static str, u32)> {
        for name in names {
            if let Ok(offset) = self.socket(name, 0) {
                return Ok((name, offset));
            }
        }
        anyhow::bail!("this kernel's BTF has none of {}", names.join(", "))
    }

    fn bit(&self, name: &str) -> Result<u32> {
        let bit = self
            .btf
            .enumerator(name)
            .with_context(|| format!("this kernel's BTF has no enumerator {name}"))?;
        1u32.checked_shl(bit)
            .with_context(|| format!("{name} is {bit}, beyond the flags word"))
    }
}
