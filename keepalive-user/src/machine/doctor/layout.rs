//! The kernel's layout in the report.

use anyhow::Result;
use keepalive_ebpf::{Comparison, FieldNeed, WordKind};

use crate::{
    core::event::{Compared, FieldReport, LayoutReport, Status},
    machine::bpf::{Kernel, layout::Row},
};

/// The fields of the kernel, where it has them, and how they are verified.
pub fn report(kernel: &Result<Kernel>) -> LayoutReport {
    match kernel {
        Ok(kernel) => LayoutReport {
            status: Status::Ok,
            error: None,
            keepalive_timer: Some(kernel.resolved.keepalive_timer()),
            write_timer: Some(kernel.resolved.write_timer()),
            absent: kernel.resolved.absent(),
            fields: kernel.resolved.rows.iter().map(field_report).collect(),
            withholds_from_init: Some(kernel.resolved.withholds_from_init),
        },
        Err(error) => LayoutReport {
            status: Status::Refused,
            error: Some(format!("{error:#}")),
            keepalive_timer: None,
            write_timer: None,
            absent: Vec::new(),
            fields: Vec::new(),
            withholds_from_init: None,
        },
    }
}

fn field_report(row: &Row) -> FieldReport {
    let is_offset = match row.field.place {
        WordKind::Socket | WordKind::Common | WordKind::Mini | WordKind::Other => true,
        WordKind::SocketLength | WordKind::MiniLength | WordKind::Flag | WordKind::Tag(_) => false,
    };
    let lost = match row.field.need {
        FieldNeed::Optional(lost) => Some(lost),
        FieldNeed::Required | FieldNeed::Instead(_) => None,
    };
    let (compared, comparison) = match row.field.comparison {
        Comparison::Compared(with) => (Compared::Yes, with),
        Comparison::AsZero(with) => (Compared::AsZero, with),
        Comparison::NotCompared(why) => (Compared::No, why),
    };
    FieldReport {
        name: row.field.name,
        member: row.member,
        offset: (is_offset && row.member.is_some()).then_some(row.word),
        size: row.member.filter(|_| is_offset).map(|_| row.size),
        value: (!is_offset).then_some(row.word),
        required: row.field.need == FieldNeed::Required,
        lost: lost.filter(|_| row.member.is_none()),
        compared,
        comparison,
    }
}
