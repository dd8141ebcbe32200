//! The files of a recording: their mode, their rotation, and the owners that each contains.

use super::*;

/// Files of other processes are neither renamed nor written to, whenever they appear.
#[test]
fn rotation_moves_only_files_of_its_own() {
    let directory = Directory::new("foreign");
    let path = directory.file("x.kar");
    let limits = Limits {
        size: Some(1),
        files: 3,
        ..ANY
    };
    let begin = |force| create(&path, limits, force);
    let next = |recorder: &mut Recorder| {
        recorder.seed(&Identity::default(), START).unwrap();
        recorder.flush()
    };
    let mut recorder = begin(false).unwrap();
    next(&mut recorder).unwrap();
    let first = directory.file("x.kar.1");
    // A file that was removed is skipped.
    fs::remove_file(&first).unwrap();
    next(&mut recorder).unwrap();
    assert!(first.exists());
    // A link in place of a file that was removed.
    let second = directory.file("x.kar.2");
    std::os::unix::fs::symlink(directory.file("victim"), &second).unwrap();
    let error = format!("{:#}", next(&mut recorder).unwrap_err());
    assert!(error.contains("x.kar.2 is not the file"), "{error}");
    assert!(second.is_symlink() && !directory.file("victim").exists());
    drop(recorder);
    // Also with force, because it is a link.
    let error = begin(true).err().unwrap().to_string();
    assert!(error.contains("x.kar.2 is a symbolic link"), "{error}");
    fs::remove_file(&second).unwrap();
    // A file at a name that the recording will use later.
    let mut recorder = begin(true).unwrap();
    assert!(
        !first.exists(),
        "files of two recordings do not go together"
    );
    fs::write(&first, "another").unwrap();
    let error = format!("{:#}", next(&mut recorder).unwrap_err());
    assert!(
        error.contains("x.kar.1") && error.contains("exists"),
        "{error}"
    );
    assert_eq!(fs::read(&first).unwrap(), b"another");
    drop(recorder);
    // A file in place of the one being written.
    let mut recorder = begin(true).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "another").unwrap();
    let error = format!("{:#}", next(&mut recorder).unwrap_err());
    assert!(
        error.contains("is not the file that was recorded to"),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"another");
}

#[test]
fn a_recording_is_only_for_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new("private");
    let path = directory.file("x.kar");
    let limits = Limits {
        size: Some(1),
        ..ANY
    };
    live(&path, limits, &story());
    for name in ["x.kar", "x.kar.1"] {
        let mode = fs::metadata(directory.file(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// A reader forgets an owner when the socket ends, so the owner is written again.
#[test]
fn an_owner_is_written_again_after_the_end_of_its_socket() {
    let directory = Directory::new("reuse");
    let path = directory.file("x.kar");
    let mut recorder = create(&path, ANY, false).unwrap();
    let process = Arc::new(Process {
        pid: 1,
        comm: "init".to_owned(),
    });
    for end in [false, false, true, false] {
        recorder.process(7, Some(&process)).unwrap();
        if end {
            recorder.forget(7).unwrap();
        }
    }
    recorder.process(7, None).unwrap();
    recorder.process(7, None).unwrap();
    recorder.finish(START).unwrap();
    let bytes = fs::read(&path).unwrap();
    let mut reader = Reader::new(&*bytes).unwrap();
    let mut owners = Vec::new();
    while let Some(frame) = reader.frame().unwrap() {
        if let Frame::Process { process, .. } = frame {
            owners.push(process.map(|(pid, _)| pid));
        }
    }
    assert_eq!(owners, [Some(1), Some(1), None]);
}
