//! # System calls
//!
//! The system calls that neither std nor rustix has, behind safe functions. Only this file calls libc.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use libc::{c_int, c_long};
use linux_raw_sys::ioctl::NS_GET_NSTYPE;
use seccompiler::sock_filter;

/// `enum bpf_cmd`, include/uapi/linux/bpf.h.
const BPF_MAP_LOOKUP_ELEM: c_int = 1;
const BPF_OBJ_GET_INFO_BY_FD: c_int = 15;

/// Reads the kernel's information about a BPF object: a prefix of the struct of its kind (`bpf_prog_info`,
/// `bpf_map_info`), as long as both this kernel and `info` have it; the rest is zero.
///
/// # Errors
/// If the kernel refuses.
pub fn bpf_object_info(object: BorrowedFd<'_>, info: &mut [u8]) -> io::Result<()> {
    /// The member `info` of `union bpf_attr`.
    #[repr(C)]
    struct Attribute {
        fd: u32,
        length: u32,
        info: u64,
    }
    // The struct is an argument as well: it has pointers to arrays that the kernel fills
    // (`bpf_prog_get_info_by_fd`). Zero means that there is no array.
    info.fill(0);
    let length = u32::try_from(info.len()).map_err(io::Error::other)?;
    let attribute = Attribute {
        fd: object.as_raw_fd().cast_unsigned(),
        length,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the attribute is a local, with its true size, and has no padding. The kernel writes at most
    // `length` bytes to `info`, which is borrowed for the call, and nothing elsewhere: all pointers in it
    // are null.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw const attribute,
            size_of::<Attribute>(),
        )
    };
    check(result).map(drop)
}

/// Looks up an element of a map that does not exist: EBADF if the kernel allows the lookup, EPERM if it
/// refuses bpf(2) to this thread.
pub fn bpf_lookup_of_no_map() -> io::Error {
    /// Of `union bpf_attr`: descriptor, key, value, flags.
    static NO_MAP: [u64; 4] = [u32::MAX as u64, 0, 0, 0];
    // SAFETY: the pointer and the size are those of the attribute, which the kernel only reads. There is no
    // descriptor -1 (`__bpf_map_get` is before anything else), so that no key is read and no value written.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_ELEM,
            &raw const NO_MAP,
            size_of_val(&NO_MAP),
        )
    };
    check(result).map_or_else(|error| error, |_| io::ErrorKind::Other.into())
}

/// Installs a seccomp filter for the calling thread and those that it starts; the kernel logs refused calls.
///
/// # Errors
/// If the kernel has no seccomp, or the thread may still gain privileges (EACCES).
pub fn set_seccomp_filter(program: &[sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        // Both are the kernel's `struct sock_filter`. It is not written to.
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the kernel copies the program before it returns (`bpf_prog_create_from_user`); its pointer and
    // length are those of the slice. Without SECCOMP_FILTER_FLAG_TSYNC no other thread is concerned.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_LOG,
            &raw const program,
        )
    };
    check(result).map(drop)
}

/// Opens (O_PATH) the node with this id in a kernfs file system, such as cgroupfs, of which `mount` is a
/// directory. Needs CAP_DAC_READ_SEARCH.
///
/// # Errors
/// ESTALE if no node has this id.
pub fn open_kernfs_id(mount: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    /// `struct file_handle` as kernfs makes them (`kernfs_encode_fh`, since 5.5): the id alone.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        id: u64,
    }
    /// `FILEID_KERNFS`, include/linux/exportfs.h.
    const FILEID_KERNFS: i32 = 0xfe;
    let mut handle = Handle {
        bytes: size_of::<u64>() as u32,
        kind: FILEID_KERNFS,
        id,
    };
    // SAFETY: the handle is followed by as many bytes as it claims, and the kernel only reads it.
    let fd = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut handle).cast(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    check(fd.into())?;
    // SAFETY: the kernel has just created this descriptor, and no other code owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The kind of namespace that a file of nsfs refers to: its `CLONE_NEW…` (ioctl_nsfs(2), since 4.11). Only
/// for files of nsfs: another driver may interpret the number differently.
///
/// # Errors
/// ENOTTY if it is another file.
pub fn namespace_kind(file: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: the ioctl has no argument, and changes nothing.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE.into()) };
    Ok(check(kind.into())? as u32)
}

/// Sets the flags of the interface `lo` in the network namespace of this socket to IFF_UP.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over that namespace.
pub fn bring_up_loopback(socket: BorrowedFd<'_>) -> io::Result<()> {
    /// `struct ifreq` with the member `ifr_flags`.
    #[repr(C)]
    struct InterfaceFlags {
        name: [u8; libc::IFNAMSIZ],
        flags: libc::c_short,
        rest: [u8; size_of::<libc::ifreq>() - libc::IFNAMSIZ - size_of::<libc::c_short>()],
    }
    const { assert!(size_of::<InterfaceFlags>() == size_of::<libc::ifreq>()) };
    let mut request = InterfaceFlags {
        name: [0; libc::IFNAMSIZ],
        flags: libc::IFF_UP as libc::c_short,
        rest: [0; _],
    };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: the kernel reads an `ifreq`, whose size the request has (asserted above), and keeps no pointer.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    check(result.into()).map(drop)
}

/// The addresses of all interfaces in the network namespace of the calling thread (getifaddrs(3)).
///
/// # Errors
/// If the kernel refuses the request, by rtnetlink.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut first = std::ptr::null_mut();
    // SAFETY: the pointer is a local, which getifaddrs sets if it succeeds.
    check(unsafe { libc::getifaddrs(&raw mut first) }.into())?;
    let mut found = Vec::new();
    let mut next = first;
    // SAFETY: a member of the list, which is ours until freeifaddrs, or null at its end.
    while let Some(member) = unsafe { next.as_ref() } {
        // SAFETY: null, or a `sockaddr` as long as its family demands.
        found.extend(unsafe { address_of(member.ifa_addr) });
        next = member.ifa_next;
    }
    // SAFETY: what getifaddrs returned, freed once; no reference into it is left.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

/// The address in a `sockaddr`, if it is IPv4 or IPv6.
///
/// # Safety
/// The pointer is null, or valid for as many bytes as the family has.
unsafe fn address_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the family comes first in each of them; the pointer may be unaligned for the larger ones.
    unsafe {
        let family = c_int::from(address.as_ref()?.sa_family);
        match family {
            libc::AF_INET => {
                let v4 = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into())
            }
            libc::AF_INET6 => {
                let v6 = address.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

/// `struct tcp_info`.
pub type TcpInfo = libc::tcp_info;

/// Reads TCP_INFO; fields that this kernel does not report are zero.
///
/// # Errors
/// If it is not a TCP socket.
pub fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    // SAFETY: a struct of integers, for which all zero is a value.
    let mut info: TcpInfo = unsafe { std::mem::zeroed() };
    let mut length = size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, whose size that is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    check(result.into()).map(|_| info)
}

/// TCP_RTO_MAX_MS, `include/uapi/linux/tcp.h` since 6.15.
const TCP_RTO_MAX_MS: c_int = 44;

/// The longest retransmission timeout of a socket, milliseconds.
///
/// # Errors
/// ENOPROTOOPT from older kernels.
pub fn tcp_rto_max(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut milliseconds: c_int = 0;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to the integer, whose size that is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_RTO_MAX_MS,
            (&raw mut milliseconds).cast(),
            &raw mut length,
        )
    };
    check(result.into())?;
    u32::try_from(milliseconds).map_err(io::Error::other)
}

/// Sets the value that [`tcp_rto_max`] reads.
///
/// # Errors
/// ENOPROTOOPT from older kernels.
pub fn set_tcp_rto_max(socket: BorrowedFd<'_>, milliseconds: u32) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as the integer has.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_RTO_MAX_MS,
            (&raw const milliseconds).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    check(result.into()).map(drop)
}

/// Converts the return value of a system call: -1 and errno, or a result.
fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_an_address() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        // A namespace whose loopback is down has none.
        let is_up = std::net::TcpListener::bind((loopback, 0)).is_ok();
        assert_eq!(addresses().unwrap().contains(&loopback), is_up);
    }
}
