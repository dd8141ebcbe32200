//! The layout: where the running kernel keeps the fields we read, resolved from its BTF by user
//! space and injected as a read-only global. No kernel struct is compiled in.
//!
//! One table, [`table`], has a row per field. The struct that the programs read, the list that user
//! space resolves, and what `doctor` shows of it are all made of these rows: a member without a row
//! cannot be written down, nor a row without a member.

/// Offset of a field this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Most bytes of a `struct tcp_sock` a program copies. Above any kernel's `KernelLayout::copy_len`.
pub const SOCK_COPY_MAX: usize = 4096;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The member of [`KernelLayout`].
    pub name: &'static str,
    pub place: Place,
    /// `struct.member`, the member by dotted path; the first that a kernel has is taken. The
    /// enumerator of a [`Place::Flag`].
    pub alternatives: &'static [&'static str],
    /// In bytes; [`ANY`] where kernels differ and nothing reads the whole.
    pub size: u32,
    pub need: Need,
    pub comparison: Comparison,
}

/// [`Field::size`]: any.
pub const ANY: u32 = 0;

/// What the word of a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Bytes to copy of a `struct tcp_sock`: a multiple of 8, at most [`SOCK_COPY_MAX`].
    SocketLength,
    /// Bytes to copy of a `struct inet_timewait_sock` or `struct request_sock`.
    MiniLength,
    /// Offset from the `struct sock`, the address of the `struct tcp_sock` as well.
    Socket,
    /// As [`Place::Socket`], in `struct sock_common`, which the small sockets begin with, too.
    Common,
    /// Offset in one of the small sockets of TIME_WAIT and SYN_RECV.
    Mini,
    /// Offset in another struct: the one named in the alternative, or the whole that contains it.
    Other,
    /// `1 << enumerator`.
    Flag,
    /// This mask if the kernel has the member, else 0.
    Tag(u32),
}

/// What becomes of it where a kernel does not have the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The kernel is refused.
    Required,
    /// [`ABSENT`]; what is lost.
    Optional(&'static str),
    /// [`ABSENT`], and nothing is lost; what is read instead.
    Instead(&'static str),
}

/// Whether the self-test compares what the programs read there with what the kernel reports otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Compared; with what.
    Compared(&'static str),
    /// Compared, but the socket of the self-test has 0 there, and other places may have 0 as well;
    /// with what.
    AsZero(&'static str),
    /// Not compared; why.
    NotCompared(&'static str),
}

/// Structs that must begin with this member: offsets of either are used on one pointer.
pub const NESTED: [&str; 7] = [
    "tcp_sock.inet_conn",
    "inet_connection_sock.icsk_inet",
    "inet_sock.sk",
    "sock.__sk_common",
    "inet_timewait_sock.__tw_common",
    "request_sock.__req_common",
    "socket_alloc.socket",
];

/// Some vendors' kernels run a tracing program that process 1 did not load only while another process is
/// the current one (looked at in `bpf_trace_run*`): those have this member.
pub const INIT_OWNED: &str = "bpf_prog_aux.init_owned";

/// Makes the struct and the list of the rows.
macro_rules! layout {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident: $place:expr, [$($alternative:literal),*], $size:expr, $need:expr, $comparison:expr;
    )*) => {
        /// Byte offsets, lengths and masks of one kernel, a word per row of [`FIELDS`], in their order.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        pub struct KernelLayout {
            $($(#[doc = $doc])* pub $name: u32,)*
        }

        /// The rows. Recordings have the words in this order: rows are only ever added at the end.
        pub const FIELDS: &[Field; size_of::<KernelLayout>() / size_of::<u32>()] = &[
            $(Field {
                name: stringify!($name),
                place: $place,
                alternatives: &[$($alternative),*],
                size: $size,
                need: $need,
                comparison: $comparison,
            },)*
        ];
    };
}

mod table;

pub use table::{FIELDS, KernelLayout};
