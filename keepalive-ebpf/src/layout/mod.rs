//! The layout: the offsets of the fields we read in the running kernel, resolved from its BTF by user
//! space and set as a read-only global. No kernel struct is compiled in.
//!
//! One table, [`table`], has a row per field. The struct that the programs read, the list that user
//! space resolves, and the output of `doctor` are all generated from these rows: a member without a row
//! does not compile, nor does a row without a member.

/// Offset of a field this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Maximum bytes of a `struct tcp_sock` a program copies. Above any kernel's `KernelLayout::copy_len`.
pub const SOCK_COPY_MAX: usize = 4096;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The member of [`KernelLayout`].
    pub name: &'static str,
    pub place: WordKind,
    /// `struct.member`, the member by dotted path; the first one that the kernel has is used. The
    /// enumerator of a [`WordKind::Flag`].
    pub alternatives: &'static [&'static str],
    /// In bytes; [`ANY`] where kernels differ and no program reads the whole member.
    pub size: u32,
    pub need: FieldNeed,
    pub comparison: Comparison,
}

/// [`Field::size`]: any size.
pub const ANY: u32 = 0;

/// The meaning of a field's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordKind {
    /// Bytes to copy of a `struct tcp_sock`: a multiple of 8, at most [`SOCK_COPY_MAX`].
    SocketLength,
    /// Bytes to copy of a `struct inet_timewait_sock` or `struct request_sock`.
    MiniLength,
    /// Offset from the `struct sock`, which is also the address of the `struct tcp_sock`.
    Socket,
    /// As [`WordKind::Socket`], in `struct sock_common`, which is also the first member of the small sockets.
    Common,
    /// Offset in one of the small sockets of TIME_WAIT and SYN_RECV.
    Mini,
    /// Offset in another struct: the one named in the alternative, or the type that contains it.
    Other,
    /// `1 << enumerator`.
    Flag,
    /// This mask if the kernel has the member, else 0.
    Tag(u32),
}

/// What happens if a kernel does not have the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldNeed {
    /// The kernel is not supported.
    Required,
    /// [`ABSENT`]; the text names what is not available then.
    Optional(&'static str),
    /// [`ABSENT`], without a restriction; the text names what is read instead.
    Instead(&'static str),
}

/// Whether the self-test compares what the programs read there with what the kernel reports elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Compared; the text names with what.
    Compared(&'static str),
    /// Compared, but the value is 0 for the socket of the self-test, and a wrong offset may contain 0 as
    /// well; the text names with what.
    AsZero(&'static str),
    /// Not compared; the text gives the reason.
    NotCompared(&'static str),
}

/// Structs that must begin with this member: offsets of both are used on one pointer.
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
/// the current one (checked in `bpf_trace_run*`): these kernels have this member.
pub const INIT_OWNED: &str = "bpf_prog_aux.init_owned";

/// Generates the struct and the list from the rows.
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
