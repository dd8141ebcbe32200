//! Where a socket was created: its cgroup, and the container of that cgroup.

use std::sync::Arc;

use crate::core::event::Cgroup;

/// Where a socket was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub cgroup: Arc<Cgroup>,
    pub container_id: Option<Arc<str>>,
}

impl Place {
    pub fn new(id: u64, path: Option<&str>) -> Self {
        Self {
            cgroup: Arc::new(Cgroup {
                id,
                path: path.map(str::to_owned),
            }),
            container_id: path.and_then(container_id).map(Into::into),
        }
    }
}

/// The container's id in a cgroup path: 64 hexadecimal digits, as every runtime uses
/// (`docker-ID.scope`, `/docker/ID`, `cri-containerd-ID.scope`, `libpod-ID.scope`, `crio-ID.scope`).
fn container_id(path: &str) -> Option<&str> {
    path.rsplit(['/', '-', '.', ':'])
        .find(|part| part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_of_every_runtime() {
        let id = "0123456789abcdef".repeat(4);
        for path in [
            format!("/system.slice/docker-{id}.scope"),
            format!("/docker/{id}"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
            format!("/machine.slice/libpod-{id}.scope/container"),
        ] {
            assert_eq!(container_id(&path), Some(&*id), "{path}");
        }
        assert_eq!(container_id("/system.slice/ssh.service"), None);
        assert_eq!(container_id(&format!("/docker/{}", "g".repeat(64))), None);
    }
}
