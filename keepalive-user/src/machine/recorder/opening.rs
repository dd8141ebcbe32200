//! Opens recordings for replay, and puts them in order.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    core::{
        exit::{Exit, Refusal},
        recording::Reader,
        replay::Recording,
    },
    machine::files,
};

/// Opens the files of one trace, and puts them in order.
///
/// # Errors
/// If one is not a recording, or they are of several traces.
pub fn open_all(paths: &[PathBuf]) -> Result<Vec<Recording<Box<dyn Read>>>> {
    let mut all = paths
        .iter()
        .map(|path| open(path))
        .collect::<Result<Vec<_>>>()?;
    all.sort_by_key(|recording| recording.reader.header.sequence);
    for pair in all.windows(2) {
        let [one, other] = pair else { continue };
        let (one_header, other_header) = (&one.reader.header, &other.reader.header);
        if other_header.missing_after(one_header).is_none() {
            return Err(Refusal::new(
                Exit::Usage,
                format!(
                    "{} does not continue {}: give all files of one trace",
                    other.name, one.name
                ),
            )
            .into());
        }
    }
    Ok(all)
}

fn open(path: &Path) -> Result<Recording<Box<dyn Read>>> {
    let name = path.display().to_string();
    let (inner, length): (Box<dyn Read>, _) = if path == Path::new("-") {
        (Box::new(io::stdin().lock()), None)
    } else {
        let file = files::open(path)?;
        let length = file.metadata().ok().map(|metadata| metadata.len());
        (Box::new(file), length)
    };
    let reader = Reader::new(inner).with_context(|| name.clone())?;
    Ok(Recording {
        name,
        reader,
        length,
    })
}
