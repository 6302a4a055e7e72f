//! Symbolic links: over a bucket in memory, on the real mount, and as an FTP client meets them.

mod common;
#[path = "common/tree.rs"]
mod tree;

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt, symlink},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use common::{Emulator, FtpClient, Setup, TempTree, Watchdog, eventually, require, shell};
use cosgate::{
    config::{PolicyConfig, QuotaConfig},
    cos::{Fault, Operation, Reason, Rule},
    vfs::{AttributeChange, Attributes, FileKind, OpenHow, Vfs, VfsError, VfsResult},
};
use rustix::io::Errno;
use tree::{
    ALL, ME, NEW, Plan, READ, ROOT, Tree, create, list, mkdir, open, read_file, rename, stat, truncate,
    unlink, walk, write_file,
};

fn posix() -> Plan {
    Plan { posix_metadata: true, ..Plan::default() }
}

async fn link(vfs: &Vfs, target: impl AsRef<OsStr>, path: &str) -> VfsResult<Attributes> {
    let (parent, name) = walk(vfs, path).await?;
    let made = vfs.symlink(parent, &name, target.as_ref()).await?;
    vfs.forget(made.attributes.inode, 1);
    Ok(made.attributes)
}

async fn read_link(vfs: &Vfs, path: &str) -> VfsResult<Vec<u8>> {
    let (parent, name) = walk(vfs, path).await?;
    let entry = vfs.lookup(parent, &name).await?;
    let target = vfs.readlink(entry.attributes.inode).await;
    vfs.forget(entry.attributes.inode, 1);
    target.map(|target| target.to_vec())
}

/// Kinds by name, as a readdir without attributes tells them.
async fn kinds(vfs: &Vfs) -> VfsResult<Vec<(OsString, FileKind)>> {
    let handle = vfs.opendir(ROOT).await?;
    let mut kinds = Vec::new();
    let mut take = |line: &cosgate::vfs::DirectoryEntry| {
        kinds.push((line.name.clone(), line.entry.attributes.kind));
        true
    };
    let done = vfs.readdir(handle, 0, false, &mut take).await;
    vfs.releasedir(handle);
    kinds.retain(|(name, _)| name != "." && name != "..");
    done.map(|()| kinds)
}

/// > With `posix_metadata`, a symbolic link is an object that holds its target, marked as s3fs and cosfs mark one, and another gateway shows it.
#[tokio::test]
async fn a_link_is_kept_and_seen_by_another_gateway() {
    let tree = Tree::new(&posix());
    mkdir(tree.vfs(), "d").await.unwrap();
    let made = link(tree.vfs(), "../深圳/x", "d/l").await.unwrap();
    assert_eq!((made.kind, made.bytes, made.mode), (FileKind::Symlink, 11, 0o777));
    let again = stat(tree.vfs(), "d/l").await.unwrap();
    assert_eq!(Attributes { inode: made.inode, ..again }, made);
    assert_eq!(tree.memory.content("d/l").unwrap(), "../深圳/x");
    assert_eq!(tree.memory.meta("d/l").unwrap().metadata["mode"], 0o120_777.to_string());
    let other = Tree::over(tree.memory.clone(), &posix());
    let listed = list(other.vfs(), "d").await.unwrap();
    assert_eq!((listed["l"].kind, listed["l"].bytes), (FileKind::Symlink, 11));
    assert_eq!(stat(other.vfs(), "d/l").await.unwrap().kind, FileKind::Symlink);
    for _ in 0..2 {
        assert_eq!(read_link(other.vfs(), "d/l").await.unwrap(), "../深圳/x".as_bytes());
    }
    assert_eq!(other.store.calls(Operation::GetObject), 1, "the target is remembered");
    // As s3fs leaves one; bytes that are no text are a target too.
    other.memory.insert("foreign", b"\xff/x".to_vec());
    other.memory.change_meta("foreign", |meta| {
        meta.metadata.insert("mode".to_owned(), 0o120_777.to_string());
    });
    let third = Tree::over(tree.memory.clone(), &posix());
    assert_eq!(read_link(third.vfs(), "foreign").await.unwrap(), b"\xff/x");
}

/// > Without `posix_metadata` making a link is refused (EPERM), one that is there is a file that holds its target, and nothing more is asked for.
#[tokio::test]
async fn without_posix_metadata_there_are_no_links() {
    let tree = Tree::new(&posix());
    link(tree.vfs(), "target", "l").await.unwrap();
    let plain = Tree::over(tree.memory.clone(), &Plan::default());
    let refused = link(plain.vfs(), "target", "new").await.unwrap_err();
    assert!(matches!(refused, VfsError::NotPermitted { .. }), "{refused}");
    assert_eq!(list(plain.vfs(), "").await.unwrap()["l"].kind, FileKind::File);
    assert_eq!(read_file(plain.vfs(), "l").await.unwrap(), b"target");
    assert_eq!(plain.store.calls(Operation::HeadObject), 0);
    assert_eq!(plain.store.calls(Operation::PutObject), 0);
}

/// > A link never takes a name that exists, its target has 1 to 4095 bytes, and a link needs the rights and the room of a new file.
#[tokio::test]
async fn a_link_is_refused_where_a_file_would_be() {
    let tree = Tree::new(&Plan {
        policies: vec![
            ALL,
            PolicyConfig { authority: cosgate::config::Authority { read: true, write: false }, ..ALL },
            PolicyConfig { authority: cosgate::config::Authority { read: false, write: true }, ..ALL },
        ],
        ..posix()
    });
    write_file(tree.vfs(), "f", b"content").await.unwrap();
    mkdir(tree.vfs(), "d").await.unwrap();
    link(tree.vfs(), "f", "l").await.unwrap();
    for name in ["f", "d", "l"] {
        let error = link(tree.vfs(), "x", name).await.unwrap_err();
        assert!(matches!(error, VfsError::Exists { .. }), "{name}: {error}");
    }
    // Another gateway was faster, and this one does not know.
    tree.memory.insert("late", "object");
    let error = link(tree.vfs(), "x", "late").await.unwrap_err();
    assert!(matches!(error, VfsError::Exists { .. }), "{error}");
    assert_eq!(tree.memory.content("late").unwrap(), "object");
    // Between the look and the PUT.
    tree.memory.insert("raced", "object");
    tree.store.inject(Rule::on(Operation::HeadObject), Fault::Fail(Reason::NoSuchKey));
    let error = link(tree.vfs(), "x", "raced").await.unwrap_err();
    assert!(matches!(error, VfsError::Exists { .. }), "{error}");
    assert_eq!(tree.memory.content("raced").unwrap(), "object");

    let longest = "x".repeat(4095);
    assert_eq!(link(tree.vfs(), &longest, "long").await.unwrap().bytes, 4095);
    assert_eq!(read_link(tree.vfs(), "long").await.unwrap(), longest.as_bytes());
    let error = link(tree.vfs(), "x".repeat(4096), "longer").await.unwrap_err();
    assert!(matches!(error, VfsError::NameTooLong), "{error}");
    let error = link(tree.vfs(), "a\0b", "zero").await.unwrap_err();
    assert!(matches!(error, VfsError::Invalid { .. }), "{error}");
    let error = link(tree.vfs(), "", "empty").await.unwrap_err();
    assert!(matches!(error, VfsError::NotFound { .. }), "{error}");
    let error = link(&tree.views[1], "x", "new").await.unwrap_err();
    assert!(matches!(error, VfsError::ReadOnly), "{error}");
    let error = read_link(&tree.views[2], "l").await.unwrap_err();
    assert!(matches!(error, VfsError::WriteOnly), "{error}");

    tree.store.inject(Rule::on(Operation::PutObject), Fault::LoseAnswer(Reason::TimedOut));
    assert_eq!(link(tree.vfs(), "x", "answered late").await.unwrap().kind, FileKind::Symlink);

    let narrow = QuotaConfig { bytes: Some(1000), files: Some(3) };
    let narrow = Tree::new(&Plan { quota: narrow, ..posix() });
    link(narrow.vfs(), "x".repeat(900), "a").await.unwrap();
    let error = link(narrow.vfs(), "x".repeat(101), "b").await.unwrap_err();
    assert!(matches!(error, VfsError::QuotaReached { setting: "quota", .. }), "{error}");
    assert_eq!(narrow.memory.content("b"), None);
    assert_eq!(narrow.vfs().statfs().bytes_free, 100);
    link(narrow.vfs(), "x", "c").await.unwrap();
    link(narrow.vfs(), "x", "d").await.unwrap();
    let error = link(narrow.vfs(), "x", "e").await.unwrap_err();
    assert!(matches!(error, VfsError::QuotaReached { setting: "quota_files", .. }), "{error}");
    unlink(narrow.vfs(), "a").await.unwrap();
    assert_eq!(narrow.vfs().statfs().bytes_free, 998);
}

/// > Rename, times, owner and removal concern the link itself; what it leads to stays as it was.
#[tokio::test]
async fn a_link_is_changed_as_itself() {
    let tree = Tree::new(&posix());
    write_file(tree.vfs(), "f", b"content").await.unwrap();
    link(tree.vfs(), "f", "l").await.unwrap();
    let inode = stat(tree.vfs(), "l").await.unwrap().inode;
    let entry = tree.vfs().lookup(ROOT, OsStr::new("l")).await.unwrap();
    assert_ne!(entry.attributes.inode, inode, "numbers are not used twice");
    let inode = entry.attributes.inode;
    let change = AttributeChange {
        modified: Some(UNIX_EPOCH + Duration::from_secs(1000)),
        uid: Some(7),
        ..AttributeChange::default()
    };
    let shown = tree.vfs().setattr(inode, None, change).await.unwrap();
    assert_eq!((shown.kind, shown.uid), (FileKind::Symlink, 7));
    assert!(matches!(truncate(tree.vfs(), inode, None, 0).await, Err(VfsError::Invalid { .. })));
    assert!(matches!(tree.vfs().open(inode, READ, ME).await, Err(VfsError::Invalid { .. })));
    rename(tree.vfs(), "l", "moved", false).await.unwrap();
    assert_eq!(tree.store.calls(Operation::CopyObject), 1, "the change travels with the rename");
    let moved = tree.vfs().getattr(inode, None).await.unwrap();
    assert_eq!((moved.kind, moved.uid, moved.bytes), (FileKind::Symlink, 7, 1));
    assert_eq!(tree.vfs().readlink(inode).await.unwrap(), "f");
    // And once more by a copy onto itself.
    tree.vfs().setattr(inode, None, AttributeChange { gid: Some(8), ..change }).await.unwrap();
    tree.vfs().stop(Duration::ZERO).await;
    assert_eq!(tree.vfs().getattr(inode, None).await.unwrap().kind, FileKind::Symlink);

    let other = Tree::over(tree.memory.clone(), &posix());
    let seen = stat(other.vfs(), "moved").await.unwrap();
    assert_eq!((seen.kind, seen.uid, seen.gid), (FileKind::Symlink, 7, 8));
    assert_eq!(seen.modified, UNIX_EPOCH + Duration::from_secs(1000));
    mkdir(other.vfs(), "d").await.unwrap();
    rename(other.vfs(), "moved", "d/l", false).await.unwrap();
    rename(other.vfs(), "d", "e", false).await.unwrap();
    assert_eq!(read_link(other.vfs(), "e/l").await.unwrap(), b"f");
    // Onto a link: it is replaced, not followed.
    write_file(other.vfs(), "new", b"1").await.unwrap();
    rename(other.vfs(), "new", "e/l", false).await.unwrap();
    assert_eq!(stat(other.vfs(), "e/l").await.unwrap().kind, FileKind::File);
    assert_eq!(read_file(other.vfs(), "f").await.unwrap(), b"content");
    link(other.vfs(), "f", "again").await.unwrap();
    unlink(other.vfs(), "again").await.unwrap();
    assert_eq!(read_file(other.vfs(), "f").await.unwrap(), b"content");
    assert_eq!(other.memory.content("again"), None);
}

/// > A listing never shows a link as a file: what may be one, 1 to 4095 bytes long, is asked for, also where only kinds are wanted; if it cannot be told, the listing fails.
#[tokio::test]
async fn listings_tell_links_from_files() {
    let tree = Tree::new(&posix());
    link(tree.vfs(), "x", "l").await.unwrap();
    write_file(tree.vfs(), "small", b"1").await.unwrap();
    write_file(tree.vfs(), "none", b"").await.unwrap();
    write_file(tree.vfs(), "large", &[0; 4096]).await.unwrap();
    let told = |kinds: Vec<(OsString, FileKind)>| {
        kinds.into_iter().filter(|(_, kind)| *kind == FileKind::Symlink).map(|(name, _)| name).collect()
    };
    let names: Vec<OsString> = told(kinds(tree.vfs()).await.unwrap());
    assert_eq!(names, ["l"]);
    let other = Tree::over(tree.memory.clone(), &posix());
    let names: Vec<OsString> = told(kinds(other.vfs()).await.unwrap());
    assert_eq!(names, ["l"]);
    assert_eq!(other.store.calls(Operation::HeadObject), 2);
    kinds(other.vfs()).await.unwrap();
    assert_eq!(other.store.calls(Operation::HeadObject), 2, "what was told is remembered");
    let failing = Tree::over(tree.memory.clone(), &posix());
    failing.store.inject(Rule::on(Operation::HeadObject).always(), Fault::Fail(Reason::Unavailable));
    assert!(matches!(kinds(failing.vfs()).await, Err(VfsError::Store { .. })));
    assert!(matches!(list(failing.vfs(), "").await, Err(VfsError::Store { .. })));
}

/// > Where another gateway has put a link in place of a file, or a file in place of a link, the name leads to the new one after `attr_ttl`.
#[tokio::test]
async fn a_name_may_become_a_link_and_a_file_again() {
    let plan = Plan { attr_ttl: Duration::ZERO, ..posix() };
    let one = Tree::new(&plan);
    let other = Tree::over(one.memory.clone(), &plan);
    one.memory.insert("n", "content");
    let file = one.vfs().lookup(ROOT, OsStr::new("n")).await.unwrap().attributes.inode;
    unlink(other.vfs(), "n").await.unwrap();
    link(other.vfs(), "f", "n").await.unwrap();
    let shown = one.vfs().lookup(ROOT, OsStr::new("n")).await.unwrap().attributes;
    assert_eq!(shown.kind, FileKind::Symlink);
    assert_ne!(shown.inode, file, "the kernel knows no inode that changes its kind");
    // Who creates without having looked is sent to look; nothing is written through the link by its name.
    let error = create(one.vfs(), "n", NEW).await.unwrap_err();
    assert!(matches!(error, VfsError::ReplacedMeanwhile { .. }), "{error}");
    let error = create(one.vfs(), "n", OpenHow { exclusive: true, ..NEW }).await.unwrap_err();
    assert!(matches!(error, VfsError::Exists { .. }), "{error}");
    assert_eq!(one.memory.content("n").unwrap(), "f");

    // A writer that began before the link came replaces it: the last publication wins.
    one.memory.insert("w", "before");
    let (_, handle) = open(one.vfs(), "w", OpenHow { read: false, ..NEW }).await.unwrap();
    unlink(other.vfs(), "w").await.unwrap();
    link(other.vfs(), "f", "w").await.unwrap();
    assert_eq!(stat(one.vfs(), "w").await.unwrap().kind, FileKind::Symlink);
    tree::write(one.vfs(), handle, 0, b"after").await.unwrap();
    one.vfs().flush(handle, tree::closer()).await.unwrap();
    one.vfs().release(handle).await.unwrap();
    assert_eq!(stat(one.vfs(), "w").await.unwrap().kind, FileKind::File);
    assert_eq!(read_file(one.vfs(), "w").await.unwrap(), b"after");
    let third = Tree::over(one.memory.clone(), &plan);
    assert_eq!(stat(third.vfs(), "w").await.unwrap().kind, FileKind::File);
    assert!(!one.memory.meta("w").unwrap().metadata.contains_key("mode"));
}

fn errno(result: std::io::Result<impl Sized>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

fn runs(lines: &[String]) {
    for line in lines {
        let (ok, said) = shell(line);
        assert!(ok, "{line}\n{said}");
    }
}

/// A file system without a kernel is one thing, this is the other: what programs do with links.
#[test]
fn programs_find_links_on_two_mounts() {
    let _watchdog = Watchdog::bark_after(170);
    require("rsync");
    let emulator = Emulator::start();
    let setup = Setup::new(&emulator)
        .account("user0", "posix_metadata = true")
        .account("user1", "")
        .account("user2", "posix_metadata = true\nauthority = R");
    let gateway = setup.mount();
    let second = Setup::new(&emulator).account("user0", "posix_metadata = true").mount();
    let (home, other) = (gateway.home("user0"), second.home("user0"));
    let away = TempTree::new();
    let (a, b, l) = (home.display(), other.display(), away.path().display());
    runs(&[
        format!("cd {a} && mkdir -p t/sub && echo content > t/f && ln -s f t/rel && ln -s ../f t/sub/up"),
        format!("cd {a} && ln -s /etc/passwd t/abs && ln -s nowhere t/dangling && ln -s sub t/dir"),
        format!(
            "cd {a} && [ $(readlink t/rel) = f ] && [ \"$(cat t/rel t/sub/up t/dir/up)\" = \"$(yes content | head -3)\" ]"
        ),
        format!(
            "cd {a} && ls -l t/rel | grep -q '^lrwxrwxrwx .* 1 .* t/rel -> f$' && [ $(stat -c %s t/abs) = 11 ]"
        ),
        format!(
            "cd {a} && [ \"$(find t -type l | sort | xargs)\" = 't/abs t/dangling t/dir t/rel t/sub/up' ]"
        ),
        format!(
            "cd {b} && [ \"$(find t -type l | sort | xargs)\" = 't/abs t/dangling t/dir t/rel t/sub/up' ]"
        ),
        format!(
            "cd {b} && [ $(readlink t/dir) = sub ] && cmp t/abs /etc/passwd && [ $(cat t/dir/up) = content ]"
        ),
        format!("cp -a {a}/t {l}/cp && cp -a {a}/t {a}/copy && diff -r --no-dereference {a}/t {l}/cp"),
        format!("diff -r --no-dereference {a}/copy {l}/cp && [ $(readlink {a}/copy/dangling) = nowhere ]"),
        format!("rsync -a {l}/cp/ {a}/rs && diff -r --no-dereference {a}/rs {l}/cp"),
        format!(
            "[ -z \"$(rsync -ai {l}/cp/ {a}/rs | grep -v '/$')\" ] && rsync -a {b}/t/ {l}/rs && diff -r --no-dereference {l}/rs {l}/cp"
        ),
        format!("tar -C {a} -cf {l}/tar t && mkdir {a}/untar && tar -C {a}/untar -xf {l}/tar"),
        format!("diff -r --no-dereference {a}/untar/t {l}/cp"),
        format!("touch -h -d @1000000000 {a}/t/rel && [ $(stat -c %Y {a}/t/rel) = 1000000000 ]"),
        format!(
            "chown -h 1234:5678 {a}/t/rel && [ $(stat -c %u:%g:%F {a}/t/rel | tr ' ' _) = 1234:5678:symbolic_link ]"
        ),
        format!("[ $(stat -c %Y {a}/t/f) != 1000000000 ] && [ $(stat -c %u {a}/t/f) != 1234 ]"),
        format!(
            "cd {a} && mv t/rel t/moved && [ $(readlink t/moved) = f ] && ln -sfn sub/up t/moved && [ $(cat t/moved) = content ]"
        ),
        format!(
            "cd {a} && echo more >> t/moved && [ \"$(cat t/f)\" = \"$(printf 'content\\nmore')\" ] && test -L t/moved"
        ),
        format!(
            "cd {a} && echo through > t/dangling && [ $(cat t/nowhere) = through ] && test -L t/dangling"
        ),
        format!(
            "cd {a} && rm t/moved t/dir t/nowhere && cat t/f t/sub/up > {l}/out && [ $(wc -l < {l}/out) = 4 ]"
        ),
        format!("cd {a} && rm -r copy rs untar && [ \"$(ls)\" = t ]"),
    ]);
    assert_eq!(errno(symlink("x", home.join("t/f"))), Some(Errno::EXIST));
    assert_eq!(errno(symlink("x".repeat(4096), home.join("t/long"))), Some(Errno::NAMETOOLONG));
    assert_eq!(errno(fs::hard_link(home.join("t/f"), home.join("t/hard"))), Some(Errno::PERM));
    assert_eq!(errno(symlink("x", gateway.home("user1").join("l"))), Some(Errno::PERM));
    assert_eq!(errno(symlink("x", gateway.home("user2").join("l"))), Some(Errno::ROFS));
    assert!(!fs::symlink_metadata(gateway.home("user1").join("t/abs")).expect("stat").is_symlink());
    let nofollow = libc_nofollow(&home.join("t/abs"));
    assert_eq!(nofollow, Some(Errno::LOOP));

    // The first mount has known a file there.
    fs::write(home.join("t/late"), "a file").expect("create");
    assert!(eventually(30, || fs::remove_file(other.join("t/late")).is_ok()));
    symlink("target-of-late", other.join("t/late")).expect("the second mount makes it");
    let is_seen = || {
        fs::symlink_metadata(home.join("t/late")).is_ok_and(|shown| shown.is_symlink() && shown.size() == 14)
    };
    assert!(eventually(30, is_seen));
    fs::write(home.join("t/late"), "written through").expect("the kernel follows");
    assert_eq!(fs::read_to_string(home.join("t/target-of-late")).expect("read"), "written through");
}

fn libc_nofollow(path: &Path) -> Option<Errno> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    errno(fs::OpenOptions::new().read(true).custom_flags(flags).open(path))
}

fn listed(client: &mut FtpClient, line: &str) -> String {
    let mut data = client.passive();
    client.ask(line, 150);
    let mut lines = String::new();
    data.read_to_string(&mut lines).expect("text");
    assert_eq!(client.hear().0, 226);
    lines
}

/// > Over FTP a link is shown with its target (LIST) or as `OS.unix=slink` (MLSD), followed within the home, renamed and deleted as itself; whatever leads out of the home is refused with 550.
#[test]
fn ftp_follows_links_within_the_home_and_none_out_of_it() {
    let _watchdog = Watchdog::bark_after(170);
    let emulator = Emulator::start();
    let setup = Setup::new(&emulator)
        .account("user0", "posix_metadata = true")
        .optional("enable_anonymous = true")
        .optional("anonymous_write = true");
    let guests = setup.home("user0").join("guests");
    let setup = setup.optional(&format!("anonymous_home = {}", guests.display()));
    let mut gateway = setup.serve();
    let home = gateway.home("user0");
    let away = TempTree::new();
    let secret = away.path().join("secret");
    fs::write(&secret, "secret").expect("a file elsewhere");
    for directory in ["sub", "guests"] {
        fs::create_dir(home.join(directory)).expect("mkdir");
    }
    fs::write(home.join("f"), "content").expect("a file");
    fs::write(home.join("sub/x"), "below").expect("a file");
    let out = secret.display().to_string();
    let far = format!("{}{out}", "../".repeat(30));
    let links =
        [("in", "f"), ("dir", "sub"), ("out", &out), ("up", &far), ("gone", "nowhere"), ("round", "round")];
    for (name, target) in links {
        symlink(target, home.join(name)).expect("a link");
    }
    symlink(away.path(), home.join("outdir")).expect("a link");
    for (name, target) in [("above", "../f"), ("abovedir", "..")] {
        symlink(target, guests.join(name)).expect("a link");
    }

    let mut client = FtpClient::log_in(&mut gateway, "user0");
    let lines = listed(&mut client, "LIST");
    for (name, target) in links {
        let end = format!(" {name} -> {target}\r\n");
        let line = lines.split_inclusive('\n').find(|line| line.ends_with(&end));
        assert!(line.is_some_and(|line| line.starts_with("lrwxrwxrwx ")), "{name}: {lines}");
    }
    let facts = listed(&mut client, "MLSD");
    assert!(
        facts.lines().any(|line| line.starts_with("type=OS.unix=slink;") && line.ends_with(" out")),
        "{facts}"
    );
    assert!(listed(&mut client, "NLST").lines().any(|line| line == "out"));
    assert_eq!(client.fetch("RETR in"), b"content");
    assert_eq!(client.fetch("RETR dir/x"), b"below");
    assert!(client.ask("SIZE in", 213).ends_with(" 7\r\n"));
    for name in ["out", "up", "round", "outdir/secret"] {
        for verb in ["RETR", "SIZE", "MDTM", "HASH", "APPE", "STOR"] {
            refused(&mut client, &format!("{verb} {name}"));
        }
    }
    for line in
        ["CWD outdir", "LIST outdir", "MLSD outdir", "MKD outdir/new", "DELE outdir/secret", "RMD outdir/d"]
    {
        refused(&mut client, line);
    }
    for (from, to) in [("f", "outdir/f"), ("outdir/secret", "stolen")] {
        client.say(format!("RNFR {from}"));
        if client.hear().0 == 350 {
            client.ask(format!("RNTO {to}"), 550);
        }
    }
    assert_eq!(fs::read_dir(away.path()).expect("a list").count(), 1);
    assert_eq!(fs::read_to_string(&secret).expect("it is there"), "secret");

    assert_eq!(client.store("STOR in", b"through").0, 226);
    assert_eq!(fs::read_to_string(home.join("f")).expect("read"), "through");
    assert_eq!(client.store("STOR dir/y", b"new").0, 226);
    client.ask("RNFR dir/y", 350);
    client.ask("RNTO dir/z", 250);
    assert_eq!(fs::read_to_string(home.join("sub/z")).expect("read"), "new");
    client.ask("RNFR in", 350);
    client.ask("RNTO moved", 250);
    assert!(fs::symlink_metadata(home.join("moved")).expect("stat").is_symlink());
    for name in ["moved", "out", "outdir", "dir/z"] {
        client.ask(format!("DELE {name}"), 250);
    }
    assert_eq!(fs::read_to_string(home.join("f")).expect("read"), "through");
    assert!(secret.exists() && home.join("sub/x").exists());

    let mut guest = FtpClient::connect(&mut gateway);
    guest.ask("USER anonymous", 331);
    guest.ask("PASS a@b", 230);
    for line in
        ["RETR above", "STOR above", "CWD abovedir", "RETR abovedir/f", "LIST abovedir", "DELE abovedir/f"]
    {
        refused(&mut guest, line);
    }
    assert_eq!(guest.store("STOR mine", b"1").0, 226);
    guest.ask("RNFR mine", 350);
    guest.ask("RNTO abovedir/mine", 550);
    assert_eq!(fs::read_to_string(home.join("f")).expect("read"), "through");
    assert!(guests.join("mine").exists());
    assert!(emulator.keys().iter().all(|key| key != "mine"), "{:?}", emulator.keys());
}

/// The command ends in 550, before or after a 150.
fn refused(client: &mut FtpClient, line: &str) {
    let data = client.passive();
    client.say(line);
    let (mut code, mut text) = client.hear();
    drop(data);
    if code == 150 {
        (code, text) = client.hear();
    }
    assert_eq!(code, 550, "{line}: {text}");
}
