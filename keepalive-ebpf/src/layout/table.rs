//! The table of fields: name, meaning, alternatives, size, whether a kernel must have it, whether the
//! self-test compares it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    ANY,
    Comparison::{AsZero, Compared, NotCompared},
    Field,
    FieldNeed::{Instead, Optional, Required},
    WordKind::{Common, Flag, Mini, MiniLength, Other, Socket, SocketLength, Tag},
};

layout! {
    /// Bytes of the socket to copy so that every field of it is included.
    copy_len: SocketLength, [], ANY, Required, NotCompared("computed from the other rows");
    /// As `copy_len`, for the small sockets of TIME_WAIT and SYN_RECV.
    mini_copy_len: MiniLength, [], ANY, Required, NotCompared("computed from the other rows");

    /// The keepalive timer.
    keepalive_timer: Socket, [
        "inet_connection_sock.icsk_keepalive_timer",
        "sock.sk_timer"
    ], ANY, Required,
        Compared("the timer that SO_KEEPALIVE starts");
    /// The write timer.
    write_timer: Socket, [
        "inet_connection_sock.icsk_retransmit_timer",
        "sock.tcp_retransmit_timer"
    ], ANY, Required,
        Compared("the timer that sending starts");
    /// Deadline of the write timer.
    write_expires: Socket, [
        "inet_connection_sock.icsk_timeout",
        "inet_connection_sock.icsk_retransmit_timer.expires",
        "sock.tcp_retransmit_timer.expires"
    ], 8, Required,
        Compared("when the zero-window probe is due");
    timer_pprev: Other, ["timer_list.entry.pprev"], 8, Required,
        Compared("the keepalive timer is queued");
    timer_expires: Other, ["timer_list.expires"], 8, Required, Compared("TCP_KEEPIDLE");
    timer_function: Other, ["timer_list.function"], 8, Required,
        Compared("the two timers have two callbacks");

    skc_family: Common, ["sock_common.skc_family"], 2, Required, Compared("getsockname");
    skc_state: Common, ["sock_common.skc_state"], 1, Required, Compared("ESTABLISHED");
    skc_dport: Common, ["sock_common.skc_dport"], 2, Required, Compared("getpeername");
    skc_num: Common, ["sock_common.skc_num"], 2, Required,
        NotCompared("read of small sockets only");
    skc_daddr: Common, ["sock_common.skc_daddr"], 4, Required, Compared("getpeername");
    skc_rcv_saddr: Common, ["sock_common.skc_rcv_saddr"], 4, Required, Compared("getsockname");
    skc_v6_daddr: Common, ["sock_common.skc_v6_daddr"], 16, Optional("IPv6 addresses"),
        NotCompared("the self-test goes over ::1 only where 127.0.0.1 is unusable");
    skc_v6_rcv_saddr: Common, ["sock_common.skc_v6_rcv_saddr"], 16, Optional("IPv6 addresses"),
        NotCompared("the self-test goes over ::1 only where 127.0.0.1 is unusable");
    skc_net: Common, ["sock_common.skc_net"], 8, Required,
        Compared("the inode of /proc/self/ns/net");
    skc_cookie: Common, ["sock_common.skc_cookie"], 8, Required, Compared("SO_COOKIE");
    skc_flags: Socket, ["sock_common.skc_flags"], 8, Required, Compared("SO_KEEPALIVE");
    /// For the word at `skc_flags`.
    flag_dead: Flag, ["SOCK_DEAD"], ANY, Required, AsZero("the socket has an owner");
    /// For the word at `skc_flags`.
    flag_keepopen: Flag, ["SOCK_KEEPOPEN"], ANY, Required, Compared("SO_KEEPALIVE");
    sk_protocol: Socket, ["sock.sk_protocol"], 2, Required,
        Compared("programs skip sockets of other protocols");
    sk_err: Socket, ["sock.sk_err"], 4, Required, AsZero("the socket has no error");
    sk_err_soft: Socket, ["sock.sk_err_soft"], 4, Required, AsZero("the socket has no error");
    sk_shutdown: Socket, ["sock.sk_shutdown"], 1, Required, Compared("shutdown");
    sk_lock_owned: Socket, ["sock.sk_lock.owned"], 4, Required,
        Compared("shutdown owns the socket");
    sk_socket: Socket, ["sock.sk_socket"], 8, Required, Compared("its socket.sk is the socket");
    /// The inode number in the socket itself (from 6.18 on).
    sk_ino: Socket, ["sock.sk_ino"], 8, Instead("socket_inode behind sk_socket"), Compared("fstat");
    sk_ack_backlog: Socket, ["sock.sk_ack_backlog"], 4, Required,
        NotCompared("read of listeners only");
    sk_max_ack_backlog: Socket, ["sock.sk_max_ack_backlog"], 4, Required,
        NotCompared("read of listeners only");
    /// Up to 5.14 one word is either a cgroup pointer or, tagged in its low bits, data.
    sk_cgrp_data: Socket, [
        "sock.sk_cgrp_data.cgroup",
        "sock.sk_cgrp_data.val"
    ], 8, Optional("cgroups of sockets"),
        Compared("the inode of our cgroup, where cgroup2 is mounted");
    /// Bits of the word at `sk_cgrp_data` that, if any is set, mean "not a cgroup pointer" (5.10).
    cgroup_tag_mask: Tag(3), ["sock.sk_cgrp_data.val"], 8, Instead("no tag bits"),
        NotCompared("a constant");
    inet_sport: Socket, ["inet_sock.inet_sport"], 2, Required, Compared("getsockname");

    icsk_probes_out: Socket, ["inet_connection_sock.icsk_probes_out"], 1, Required,
        AsZero("TCP_INFO tcpi_probes");
    icsk_backoff: Socket, ["inet_connection_sock.icsk_backoff"], 1, Required,
        AsZero("TCP_INFO tcpi_backoff; doctor waits until it is 1");
    icsk_retransmits: Socket, ["inet_connection_sock.icsk_retransmits"], 1, Required,
        AsZero("TCP_INFO tcpi_retransmits");
    icsk_pending: Socket, ["inet_connection_sock.icsk_pending"], 1, Required,
        Compared("ICSK_TIME_PROBE0 with the window closed");
    icsk_user_timeout: Socket, ["inet_connection_sock.icsk_user_timeout"], 4, Required,
        Compared("TCP_USER_TIMEOUT");
    icsk_probes_tstamp: Socket, ["inet_connection_sock.icsk_probes_tstamp"], 4, Required,
        AsZero("no zero-window probe was sent; doctor waits for one");
    icsk_rto: Socket, ["inet_connection_sock.icsk_rto"], 4, Required, Compared("TCP_INFO tcpi_rto");
    /// Older kernels have the constant TCP_RTO_MAX.
    icsk_rto_max: Socket, [
        "inet_connection_sock.icsk_rto_max"
    ], 4, Optional("a TCP_RTO_MAX_MS other than 120 s"),
        Compared("TCP_RTO_MAX_MS");
    icsk_ack_lrcvtime: Socket, ["inet_connection_sock.icsk_ack.lrcvtime"], 4, Required,
        Compared("TCP_INFO tcpi_last_data_recv");
    icsk_ack_pending: Socket, ["inet_connection_sock.icsk_ack.pending"], 1, Required,
        NotCompared("whether an ACK is delayed is the kernel's choice");
    /// Deadline of the delayed ACK.
    delack_expires: Socket, [
        "inet_connection_sock.icsk_ack.timeout",
        "inet_connection_sock.icsk_delack_timer.expires"
    ], 8, Required,
        NotCompared("whether an ACK is delayed is the kernel's choice");

    keepalive_time: Socket, ["tcp_sock.keepalive_time"], 4, Required, Compared("TCP_KEEPIDLE");
    keepalive_intvl: Socket, ["tcp_sock.keepalive_intvl"], 4, Required, Compared("TCP_KEEPINTVL");
    keepalive_probes: Socket, ["tcp_sock.keepalive_probes"], 1, Required, Compared("TCP_KEEPCNT");
    packets_out: Socket, ["tcp_sock.packets_out"], 4, Required, AsZero("TCP_INFO tcpi_unacked");
    write_seq: Socket, ["tcp_sock.write_seq"], 4, Required,
        Compared("snd_nxt and TCP_INFO tcpi_notsent_bytes");
    snd_nxt: Socket, ["tcp_sock.snd_nxt"], 4, Required,
        Compared("snd_una, because nothing is in flight");
    snd_una: Socket, ["tcp_sock.snd_una"], 4, Required,
        Compared("snd_nxt, because nothing is in flight");
    snd_wnd: Socket, ["tcp_sock.snd_wnd"], 4, Required, Compared("TCP_INFO tcpi_snd_wnd");
    segs_out: Socket, ["tcp_sock.segs_out"], 4, Required, Compared("TCP_INFO tcpi_segs_out");
    rcv_nxt: Socket, ["tcp_sock.rcv_nxt"], 4, Required,
        AsZero("copied_seq, because all is read (list)");
    copied_seq: Socket, ["tcp_sock.copied_seq"], 4, Required,
        AsZero("rcv_nxt, because all is read (list)");
    rcv_tstamp: Socket, ["tcp_sock.rcv_tstamp"], 4, Required,
        Compared("TCP_INFO tcpi_last_ack_recv");
    tcp_clock_cache: Socket, ["tcp_sock.tcp_clock_cache"], 8, Required,
        Compared("when the test began");
    is_mptcp: Socket, ["tcp_sock.is_mptcp"], 1, Optional("which sockets are MPTCP's"),
        AsZero("the socket is not MPTCP's");

    tw_expires: Mini, ["inet_timewait_sock.tw_timer.expires"], 8, Required,
        NotCompared("the self-test leaves no TIME_WAIT");
    tw_substate: Mini, ["inet_timewait_sock.tw_substate"], 1, Required,
        NotCompared("the self-test leaves no TIME_WAIT");
    rsk_expires: Mini, ["request_sock.rsk_timer.expires"], 8, Required,
        NotCompared("no socket stays in SYN_RECV on loopback");
    rsk_num_retrans: Mini, ["request_sock.num_retrans"], 1, Required,
        NotCompared("no socket stays in SYN_RECV on loopback");

    net_inum: Other, ["net.ns.inum"], 4, Required, Compared("the inode of /proc/self/ns/net");
    sysctl_keepalive_time: Other, ["net.ipv4.sysctl_tcp_keepalive_time"], 4, Required,
        Compared("/proc/sys");
    sysctl_keepalive_intvl: Other, ["net.ipv4.sysctl_tcp_keepalive_intvl"], 4, Required,
        Compared("/proc/sys");
    sysctl_keepalive_probes: Other, ["net.ipv4.sysctl_tcp_keepalive_probes"], 1, Required,
        Compared("/proc/sys");
    sysctl_retries2: Other, ["net.ipv4.sysctl_tcp_retries2"], 1, Required, Compared("/proc/sys");

    /// From the `struct socket`, which the `struct socket_alloc` begins with.
    socket_inode: Other, ["socket_alloc.vfs_inode.i_ino"], 8, Required,
        Compared("fstat, where there is no sk_ino");
    file_inode: Other, ["file.f_inode"], 8, Required, Compared("fstat (list)");
    inode_number: Other, ["inode.i_ino"], 8, Required, Compared("fstat (list)");
    inode_mode: Other, ["inode.i_mode"], 2, Required,
        Compared("the walk over files finds the socket (list)");
    task_tgid: Other, ["task_struct.tgid"], 4, Required, Compared("getpid (list)");
    task_flags: Other, ["task_struct.flags"], 4, Required, Compared("/proc/thread-self/stat");
    /// The thread with the name of the process.
    task_group_leader: Other, ["task_struct.group_leader"], 8, Required,
        Compared("/proc/self/comm");
    task_comm: Other, ["task_struct.comm"], 16, Required, Compared("/proc/self/comm");
    socket_sk: Other, ["socket.sk"], 8, Required,
        Compared("the socket behind sk_socket is its own");
    cgroup_kn: Other, ["cgroup.kn"], 8, Optional("cgroups of sockets"),
        Compared("the inode of our cgroup, where cgroup2 is mounted");
    kn_id: Other, ["kernfs_node.id"], 8, Optional("cgroups of sockets"),
        Compared("the inode of our cgroup, where cgroup2 is mounted");

    segs_in: Socket, ["tcp_sock.segs_in"], 4, Required, Compared("TCP_INFO tcpi_segs_in");
    data_segs_in: Socket, ["tcp_sock.data_segs_in"], 4, Required,
        Compared("TCP_INFO tcpi_data_segs_in");
    last_oow_ack_time: Socket, ["tcp_sock.last_oow_ack_time"], 4, Required,
        AsZero("the peer sent nothing outside the window");
    retrans_stamp: Socket, ["tcp_sock.retrans_stamp"], 4, Required,
        AsZero("nothing is being retransmitted");
    icsk_syn_retries: Socket, ["inet_connection_sock.icsk_syn_retries"], 1, Required,
        AsZero("the socket has no TCP_SYNCNT");
    sysctl_syn_retries: Other, ["net.ipv4.sysctl_tcp_syn_retries"], 1, Required,
        Compared("/proc/sys");
    sysctl_orphan_retries: Other, ["net.ipv4.sysctl_tcp_orphan_retries"], 1, Required,
        Compared("/proc/sys");
    /// The route of the socket.
    sk_dst_cache: Socket, ["sock.sk_dst_cache"], 8, Required, Compared("the index of lo");
    dst_dev: Other, ["dst_entry.dev"], 8, Required, Compared("the index of lo");
    dev_ifindex: Other, ["net_device.ifindex"], 4, Required, Compared("the index of lo");
    dev_flags: Other, ["net_device.flags"], 4, Required, Compared("lo is up");
    dev_state: Other, ["net_device.state"], 8, Required, Compared("lo has a carrier");
    /// For the word at `dev_state`.
    flag_no_carrier: Flag, ["__LINK_STATE_NOCARRIER"], ANY, Required, Compared("lo has a carrier");
    task_exit_code: Other, ["task_struct.exit_code"], 4, Required,
        NotCompared("the process of the self-test is not exiting");
}
