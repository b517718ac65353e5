//! The lock file: what is entered is found again, what was spoiled is left alone, and many writers lose nothing.

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
};

use support::{altered_plugin, probe_options, raw_plugin, write};
use tempfile::{TempDir, tempdir};
use unswag_abi::doc::Manifest;
use unswag_loader::{LibraryState, LockEntry, LockError, LockFile, Locks, Origin, PluginFile, probe_with};

fn manifest(file: &PluginFile) -> Manifest {
    probe_with(file, &probe_options()).unwrap().manifest
}

fn raw() -> (PluginFile, Manifest) {
    let file = PluginFile::read(raw_plugin()).unwrap();
    let manifest = manifest(&file);
    (file, manifest)
}

fn lock_path(folder: &TempDir) -> PathBuf {
    folder.path().join("unswag.lock")
}

fn add(folder: &TempDir, file: &PluginFile, manifest: Manifest) -> LockEntry {
    LockFile::add(lock_path(folder), file, manifest, false).unwrap()
}

/// `manifest` under one other id.
fn renamed(manifest: &Manifest, id: &str) -> Manifest {
    let mut manifest = manifest.clone();
    manifest.protocols.truncate(1);
    manifest.protocols[0].id = id.to_owned();
    manifest.protocols[0].ops = vec![format!("{id}.double")];
    manifest
}

#[test]
fn what_is_added_is_found_by_id_and_by_path() {
    let folder = tempdir().unwrap();
    let (file, manifest) = raw();
    let entry = add(&folder, &file, manifest.clone());
    assert_eq!((entry.sha256, &entry.manifest), (file.sha256(), &manifest));
    let lock = LockFile::read(lock_path(&folder)).unwrap();
    for key in ["raw", "needy", file.path().to_str().unwrap()] {
        assert_eq!(lock.find(key), Some(&entry), "{key}");
    }
    assert_eq!(lock.library_path(&entry), file.path());
    assert_eq!(lock.find("libunswag_raw_plugin.so"), None);
    let text = fs::read_to_string(lock_path(&folder)).unwrap();
    assert!(text.contains("version: 1\n") && text.contains(&file.sha256().to_string()), "{text}");
}

#[test]
fn no_lock_file_is_an_empty_one() {
    let folder = tempdir().unwrap();
    assert!(LockFile::read(lock_path(&folder)).unwrap().entries().is_empty());
    let error = LockFile::remove(lock_path(&folder), "raw").unwrap_err();
    assert!(error.to_string().contains("no plugin `raw` is locked; locked: none"), "{error}");
}

#[test]
fn what_is_removed_is_gone() {
    let folder = tempdir().unwrap();
    let (file, manifest) = raw();
    add(&folder, &file, manifest);
    assert_eq!(LockFile::remove(lock_path(&folder), "needy").unwrap().sha256, file.sha256());
    assert!(LockFile::read(lock_path(&folder)).unwrap().entries().is_empty());
}

#[test]
fn a_rebuilt_plugin_takes_its_own_place() {
    let folder = tempdir().unwrap();
    let path = write(folder.path(), "libplugin.so", &fs::read(raw_plugin()).unwrap());
    let first = PluginFile::read(&path).unwrap();
    let manifest = manifest(&first);
    add(&folder, &first, manifest.clone());
    let mut bytes = first.bytes().to_vec();
    bytes.push(0);
    fs::write(&path, bytes).unwrap();
    let second = PluginFile::read(&path).unwrap();
    add(&folder, &second, manifest);
    let lock = LockFile::read(lock_path(&folder)).unwrap();
    assert_eq!(lock.entries().len(), 1);
    assert_eq!(lock.entries()[0].sha256, second.sha256());
}

#[test]
fn an_id_is_not_taken_over_by_accident() {
    let (folder, elsewhere) = (tempdir().unwrap(), tempdir().unwrap());
    let (file, manifest) = raw();
    add(&folder, &file, manifest.clone());
    let other = PluginFile::read(altered_plugin(elsewhere.path(), r#""name":"raw""#, r#""name":"two""#)).unwrap();
    let error = LockFile::add(lock_path(&folder), &other, manifest.clone(), false).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, LockError::Taken { .. }) && message.contains("raw is already locked to"), "{message}");
    assert!(message.contains("--replace") && message.contains(file.path().to_str().unwrap()), "{message}");
    assert_eq!(LockFile::read(lock_path(&folder)).unwrap().entries()[0].sha256, file.sha256());

    LockFile::add(lock_path(&folder), &other, manifest, true).unwrap();
    let lock = LockFile::read(lock_path(&folder)).unwrap();
    assert_eq!((lock.entries().len(), lock.entries()[0].sha256), (1, other.sha256()));
}

#[test]
fn a_typing_error_meets_the_nearest_id() {
    let folder = tempdir().unwrap();
    let (file, manifest) = raw();
    add(&folder, &file, manifest);
    let locks = Locks { user: LockFile::read(lock_path(&folder)).unwrap(), bundled: None };
    let error = locks.find("neddy").unwrap_err();
    assert!(
        error.to_string().contains("(did you mean `needy`?); locked: raw, needy; `unswag plugin add PATH` adds one"),
        "{error}"
    );
}

#[test]
fn a_library_beside_its_lock_file_moves_with_it() {
    let folder = tempdir().unwrap();
    let (before, after) = (folder.path().join("before"), folder.path().join("after"));
    fs::create_dir_all(before.join("plugins")).unwrap();
    let path = write(&before.join("plugins"), "libplugin.so", &fs::read(raw_plugin()).unwrap());
    let file = PluginFile::read(&path).unwrap();
    let entry = LockFile::add(before.join("unswag.lock"), &file, manifest(&file), false).unwrap();
    assert_eq!(entry.path, Path::new("plugins/libplugin.so"));
    fs::rename(&before, &after).unwrap();
    let locks = Locks {
        user: LockFile::read(folder.path().join("none")).unwrap(),
        bundled: Some(LockFile::read(after.join("unswag.lock")).unwrap()),
    };
    let found = locks.find("raw").unwrap();
    assert_eq!((found.origin, found.read().unwrap().sha256()), (Origin::Bundled, file.sha256()));
}

#[test]
fn the_users_word_goes_before_the_bundled_one() {
    let (user, bundled, elsewhere) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let (file, manifest) = raw();
    let other = PluginFile::read(altered_plugin(elsewhere.path(), r#""name":"raw""#, r#""name":"two""#)).unwrap();
    add(&bundled, &file, manifest.clone());
    let read = || Locks {
        user: LockFile::read(lock_path(&user)).unwrap(),
        bundled: Some(LockFile::read(lock_path(&bundled)).unwrap()),
    };
    assert_eq!(read().find("raw").unwrap().origin, Origin::Bundled);
    add(&user, &other, renamed(&manifest, "raw"));
    let locks = read();
    let found = locks.find("raw").unwrap();
    assert_eq!((found.origin, found.hides_bundled, found.entry.sha256), (Origin::User, true, other.sha256()));
    // The library's other protocol is still the bundled one, so both are listed.
    assert_eq!(locks.find("needy").unwrap().origin, Origin::Bundled);
    assert_eq!(locks.all().len(), 2);
}

#[test]
fn a_library_that_is_gone_is_told_by_its_id() {
    let folder = tempdir().unwrap();
    let path = write(folder.path(), "libplugin.so", &fs::read(raw_plugin()).unwrap());
    let file = PluginFile::read(&path).unwrap();
    add(&folder, &file, manifest(&file));
    fs::remove_file(&path).unwrap();
    let locks = Locks { user: LockFile::read(lock_path(&folder)).unwrap(), bundled: None };
    let error = locks.find("raw").unwrap().read().unwrap_err();
    assert!(error.to_string().contains("libplugin.so: cannot be read: No such file"), "{error}");
}

/// Whatever is in the file: an error that names it, and the file as it was.
#[test]
fn a_spoiled_lock_file_is_never_overwritten() {
    let (file, manifest) = raw();
    let good = tempdir().unwrap();
    add(&good, &file, manifest.clone());
    let good = fs::read_to_string(lock_path(&good)).unwrap();
    let twice = good.replace("plugins:\n", &format!("plugins:\n{}", good.split_once("plugins:\n").unwrap().1));
    let bomb = "version: 1\na: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n\
         d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\nplugins: [*f,*f]\n".to_owned();
    for (text, said) in [
        (String::new(), "missing field `version`"),
        ("\0\0\0".to_owned(), "lock file"),
        ("hello".to_owned(), "lock file"),
        ("version: 2\nplugins: []\n".to_owned(), "written in version 2 of the format, this unswag reads version 1"),
        ("version: one\nplugins: []\n".to_owned(), "written in version one"),
        ("version: 1\n".to_owned(), "missing field `plugins`"),
        ("version: 1\nplugins: []\nmore: 1\n".to_owned(), "unknown field `more`"),
        ("[".repeat(100_000), "lock file"),
        (bomb, "lock file"),
        (twice, "protocol raw stands in plugins[0] too"),
        (good.replace(&file.sha256().to_string(), "abc"), "64 hexadecimal digits"),
        (good.replace(&file.sha256().to_string(), &"g".repeat(64)), "64 hexadecimal digits"),
        (good.replace("- raw\n", "- delhi\n"), "not the ids of its manifest"),
        (good.replace("panic: unwind", "panic: abort"), "panic=abort"),
        (good.replacen("path: /", "path: ''\n  x: /", 1), "lock file"),
        (good[..good.len() / 2].to_owned(), "lock file"),
    ] {
        let folder = tempdir().unwrap();
        write(folder.path(), "unswag.lock", text.as_bytes());
        for error in [
            LockFile::read(lock_path(&folder)).unwrap_err(),
            LockFile::add(lock_path(&folder), &file, manifest.clone(), true).unwrap_err(),
            LockFile::remove(lock_path(&folder), "raw").unwrap_err(),
        ] {
            let message = error.to_string();
            assert!(message.contains(said) && message.contains("unswag.lock"), "{message}: expected {said}");
            assert!(message.len() < 1000 && !message.contains('\0'), "{message}");
        }
        assert_eq!(fs::read(lock_path(&folder)).unwrap(), text.as_bytes());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else was left behind");
    }
}

#[test]
fn bytes_that_are_no_text_are_left_alone() {
    let folder = tempdir().unwrap();
    let (file, manifest) = raw();
    write(folder.path(), "unswag.lock", b"version: 1\n\xff\xfe");
    let error = LockFile::add(lock_path(&folder), &file, manifest, true).unwrap_err();
    assert!(error.to_string().contains("it is not text"), "{error}");
}

#[test]
fn a_lock_file_that_everyone_may_write_vouches_for_nothing() {
    let folder = tempdir().unwrap();
    let (file, manifest) = raw();
    add(&folder, &file, manifest);
    fs::set_permissions(lock_path(&folder), fs::Permissions::from_mode(0o666)).unwrap();
    let error = LockFile::read(lock_path(&folder)).unwrap_err();
    assert!(error.to_string().contains("chmod o-w"), "{error}");
}

#[test]
fn a_folder_in_its_place_is_told() {
    let folder = tempdir().unwrap();
    fs::create_dir(lock_path(&folder)).unwrap();
    assert!(LockFile::read(lock_path(&folder)).is_err());
}

/// Twenty at once: each entry is there afterwards, and no reader ever sees half a file.
#[test]
fn many_writers_lose_nothing() {
    let folder = tempdir().unwrap();
    let libraries = tempdir().unwrap();
    let (_, manifest) = raw();
    let good = fs::read(raw_plugin()).unwrap();
    let files: Vec<PluginFile> = (0..20)
        .map(|number| PluginFile::read(write(libraries.path(), &format!("lib{number}.so"), &good)).unwrap())
        .collect();
    thread::scope(|scope| {
        for (number, file) in files.iter().enumerate() {
            let (manifest, path) = (renamed(&manifest, &format!("p{number}")), lock_path(&folder));
            scope.spawn(move || LockFile::add(path, file, manifest, false).unwrap());
        }
        for _ in 0..50 {
            LockFile::read(lock_path(&folder)).unwrap();
        }
    });
    let lock = LockFile::read(lock_path(&folder)).unwrap();
    assert_eq!(lock.entries().len(), 20);
    assert!((0..20).all(|number| lock.find(&format!("p{number}")).is_some()));
}

#[test]
fn a_folder_that_cannot_be_written_is_told_and_left() {
    // Root may write anywhere; a folder that is no folder stops it too.
    let folder = tempdir().unwrap();
    let (file, manifest) = raw();
    write(folder.path(), "file", b"");
    let path = folder.path().join("file/unswag.lock");
    let error = LockFile::add(&path, &file, manifest, false).unwrap_err();
    assert!(error.to_string().contains("unswag.lock"), "{error}");
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_lock_file_that_others_could_have_put_there_is_not_believed() {
    let outer = tempdir().unwrap();
    let folder = outer.path().join("unswag");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("unswag.lock");
    let (file, manifest) = raw();
    LockFile::add(&path, &file, manifest.clone(), false).unwrap();
    for open in [&folder, outer.path()] {
        chmod(open, 0o777);
        let error = LockFile::read(&path).unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, LockError::Untrusted { .. }) && said.contains("chmod o-w"), "{said}");
        assert!(said.contains(&format!("the folder {}", fs::canonicalize(open).unwrap().display())), "{said}");
        // Nor is it written: what is entered would not be believed.
        assert!(LockFile::add(&path, &file, manifest.clone(), false).is_err());
        // In a sticky folder only the owner of the file can replace it.
        chmod(open, 0o1777);
        LockFile::read(&path).unwrap();
        chmod(open, 0o755);
    }
    chmod(&path, 0o666);
    assert!(LockFile::read(&path).unwrap_err().to_string().contains("everyone may write to it"));
}

#[test]
fn a_link_that_others_could_have_put_there_is_not_followed_to_a_lock_file() {
    use std::os::unix::fs::symlink;

    let outer = tempdir().unwrap();
    let [mine, open, links] = ["mine", "open", "links"].map(|name| {
        let folder = outer.path().join(name);
        fs::create_dir(&folder).unwrap();
        folder
    });
    let real = mine.join("unswag.lock");
    let (file, manifest) = raw();
    LockFile::add(&real, &file, manifest, false).unwrap();
    // Directly, by way of a link in a sound folder, as the folder's link, and in the middle of a chain of relative links.
    symlink(&real, open.join("unswag.lock")).unwrap();
    symlink("../open/unswag.lock", links.join("unswag.lock")).unwrap();
    symlink("../mine", open.join("folder")).unwrap();
    symlink("../open/folder", links.join("folder")).unwrap();
    let ways = [
        open.join("unswag.lock"),
        links.join("unswag.lock"),
        open.join("folder/unswag.lock"),
        links.join("folder/unswag.lock"),
        links.join("../open/folder/./unswag.lock"),
    ];
    for way in &ways {
        assert_eq!(LockFile::read(way).unwrap().entries().len(), 1, "{}", way.display());
    }
    chmod(&open, 0o777);
    for way in &ways {
        let said = LockFile::read(way).unwrap_err().to_string();
        let folder = format!("everyone may write to the folder {}", fs::canonicalize(&open).unwrap().display());
        assert!(said.contains(&folder), "{}: {said}", way.display());
    }
    LockFile::read(&real).unwrap();
    chmod(&open, 0o755);
    // Links in a circle are an error, not a loop.
    symlink("b", links.join("a")).unwrap();
    symlink("a", links.join("b")).unwrap();
    assert!(LockFile::read(links.join("a/unswag.lock")).is_err());
}

#[test]
fn a_lock_file_or_folder_of_another_user_is_not_believed() {
    use std::os::unix::fs::chown;

    let folder = tempdir().unwrap();
    let (file, manifest) = raw();
    add(&folder, &file, manifest);
    let lock = lock_path(&folder);
    for path in [lock.as_path(), folder.path()] {
        // Only root can give a file away, so that only root can make this case.
        if chown(path, Some(4242), None).is_err() {
            return;
        }
        let said = LockFile::read(&lock).unwrap_err().to_string();
        assert!(said.contains("belongs to another user (number 4242)"), "{said}");
        chown(path, Some(0), None).unwrap();
        LockFile::read(&lock).unwrap();
    }
}

#[test]
fn what_a_killed_writer_left_is_removed_by_the_next_and_nothing_else_is() {
    let folder = tempdir().unwrap();
    let (file, manifest) = raw();
    for name in [".unswag.lock.aB3xYz", ".unswag.lock.000000"] {
        fs::write(folder.path().join(name), "half a lock file").unwrap();
    }
    let mine = [".unswag.lock.backup-of-june", "notes.txt", ".unswag.lock.aB3xY"];
    mine.iter().for_each(|name| fs::write(folder.path().join(name), "mine").unwrap());
    add(&folder, &file, manifest);
    let mut names: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, [".unswag.lock.aB3xY", ".unswag.lock.backup-of-june", "notes.txt", "unswag.lock"]);

    // A removal cleans up too.
    fs::write(folder.path().join(".unswag.lock.qqqqqq"), "").unwrap();
    LockFile::remove(lock_path(&folder), "raw").unwrap();
    assert!(!folder.path().join(".unswag.lock.qqqqqq").exists());
}

#[test]
fn a_rebuilt_or_missing_library_is_told_from_the_locked_one() {
    let folder = tempdir().unwrap();
    let path = write(folder.path(), "libplugin.so", &fs::read(raw_plugin()).unwrap());
    let file = PluginFile::read(&path).unwrap();
    add(&folder, &file, manifest(&file));
    let state = || {
        let locks = Locks { user: LockFile::read(lock_path(&folder)).unwrap(), bundled: None };
        locks.find("raw").unwrap().state()
    };
    assert_eq!(state(), LibraryState::Locked);
    let mut bytes = file.bytes().to_vec();
    bytes.push(0);
    fs::write(&path, bytes).unwrap();
    assert_eq!(state(), LibraryState::Changed);
    fs::write(&path, "no library any more").unwrap();
    assert_eq!(state(), LibraryState::Changed);
    fs::remove_file(&path).unwrap();
    assert_eq!(state(), LibraryState::Missing);
}
