//! Downloads. Bytes go into `NAME.part`, which a later attempt continues, and which becomes `NAME` once all is there.
//!
//! A part may belong to an older version of the remote file. The server's checksum tells, where there is one: then
//! the file is fetched anew.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    path::{Path, PathBuf},
};

use super::{
    ClientError, ClientOptions, ClientResult, DEPTH_MAX, Failures, PIECE_BYTES,
    digest::{Check, Running, Verdict},
    listing::{entries, is_plain, join},
    progress::Progress,
    refusal,
    session::Session,
    url::Url,
};

/// Fetches files to `local`: a directory that is there, or the name of the only one. Without it, to here.
///
/// # Errors
/// What ended a session, or how many files did not get here.
pub fn get(urls: &[Url], local: Option<&Path>, options: &ClientOptions) -> ClientResult<()> {
    let local = local.unwrap_or(Path::new("."));
    if urls.len() > 1 && !local.is_dir() {
        return Err(ClientError::Usage(format!(
            "{}: is no directory, and there are several files",
            local.display()
        )));
    }
    if let Some(url) = urls.iter().find(|url| !options.recursive && !is_plain(url.file_name())) {
        let why = "is a directory: -r fetches it with all that is in it";
        return Err(ClientError::Usage(format!("{url}: {why}")));
    }
    let mut failures = Failures::of(urls.len());
    let mut open: Option<(Url, Session)> = None;
    for url in urls {
        let mut session = match open.take() {
            Some((last, session)) if last.shares_session(url) => session,
            other => {
                if let Some((_, session)) = other {
                    session.close();
                }
                Session::open(url, &options.security)?
            }
        };
        failures.note(fetch(&mut session, url, local, options))?;
        open = Some((url.clone(), session));
    }
    if let Some((_, session)) = open {
        session.close();
    }
    failures.outcome()
}

fn fetch(session: &mut Session, url: &Url, local: &Path, options: &ClientOptions) -> ClientResult<()> {
    let path = url.path.trim_end_matches('/');
    let name = path.rsplit('/').next().unwrap_or_default();
    if options.recursive {
        // The root of a server has no name: what it holds comes here.
        let into = if local.is_dir() && is_plain(name) { local.join(name) } else { local.to_owned() };
        return fetch_tree(session, path, &into, options, 0);
    }
    let into = if local.is_dir() { local.join(name) } else { local.to_owned() };
    fetch_file(session, path, &into, options)
}

fn fetch_tree(
    session: &mut Session,
    path: &str,
    into: &Path,
    options: &ClientOptions,
    depth: usize,
) -> ClientResult<()> {
    if depth > DEPTH_MAX {
        return Err(ClientError::Other(format!("{path}: directories in each other without end")));
    }
    let entries = match entries(session, path) {
        // Not a directory, after all.
        Err(ClientError::Ftp { source, .. }) if depth == 0 && refusal(&source).is_some() => {
            return fetch_file(session, path, into, options);
        }
        entries => entries?,
    };
    fs::create_dir_all(into).map_err(ClientError::local(into))?;
    let mut failures = Failures::of(entries.len());
    for entry in entries {
        let (remote, local) = (join(path, &entry.name), into.join(&entry.name));
        failures.note(if entry.is_directory {
            fetch_tree(session, &remote, &local, options, depth + 1)
        } else {
            fetch_file(session, &remote, &local, options)
        })?;
    }
    failures.outcome()
}

fn fetch_file(session: &mut Session, remote: &str, into: &Path, options: &ClientOptions) -> ClientResult<()> {
    let part = part_of(into);
    let was_there = fs::metadata(&part).map_or(0, |meta| meta.len());
    let verdict = fetch_part(session, remote, &part, options)?;
    match verdict {
        Verdict::Differs(_) if was_there > 0 => {
            eprintln!(
                "cosgate: {}: is not the beginning of what the server has now: once more from the start",
                part.display()
            );
            fs::remove_file(&part).map_err(ClientError::local(&part))?;
            if let Verdict::Differs(check) = fetch_part(session, remote, &part, options)? {
                return Err(spoilt(remote, &part, check));
            }
        }
        Verdict::Differs(check) => return Err(spoilt(remote, &part, check)),
        Verdict::Agrees(_) | Verdict::SizeAgrees | Verdict::Unknown => {}
    }
    fs::rename(&part, into).map_err(ClientError::local(into))
}

/// What would be continued for ever goes.
fn spoilt(remote: &str, part: &Path, check: Check) -> ClientError {
    fs::remove_file(part).ok();
    ClientError::Other(format!(
        "{remote}: other bytes arrived than the server has ({check} differs); nothing is kept of it"
    ))
}

/// Continues a part to its end.
fn fetch_part(
    session: &mut Session,
    remote: &str,
    part: &Path,
    options: &ClientOptions,
) -> ClientResult<Verdict> {
    let size = session.size(remote)?;
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(part)
        .map_err(ClientError::local(part))?;
    let mut running = Check::running(session.check);
    let mut have = read_through(&mut file, &mut running).map_err(ClientError::local(part))?;
    if size.is_some_and(|size| have > size) {
        file.set_len(0).map_err(ClientError::local(part))?;
        (have, running) = (0, Check::running(session.check));
    }
    let progress = Progress::begin(options, remote, size, have);
    if have == 0 || size != Some(have) {
        let done = transfer(session, remote, &mut file, part, &mut have, &mut running, &progress);
        done.map_err(|error| explain(error, part, have, size))?;
    }
    let verdict = session.compare(remote, have, running)?;
    if !matches!(verdict, Verdict::Differs(_)) {
        progress.done(have, &verdict);
    }
    Ok(verdict)
}

fn transfer(
    session: &mut Session,
    remote: &str,
    file: &mut File,
    part: &Path,
    have: &mut u64,
    running: &mut Running,
    progress: &Progress,
) -> ClientResult<()> {
    let failed = |source| ClientError::Ftp { doing: format!("RETR {remote}"), source };
    let offset = usize::try_from(*have).unwrap_or(usize::MAX);
    session.ftp.resume_transfer(offset).map_err(failed)?;
    let mut stream = match session.ftp.retr_as_stream(remote) {
        // It will not start in the middle.
        Err(error) if offset > 0 && matches!(refusal(&error), Some(500..=504 | 554)) => {
            file.set_len(0).map_err(ClientError::local(part))?;
            (*have, *running) = (0, Check::running(session.check));
            session.ftp.retr_as_stream(remote).map_err(failed)?
        }
        stream => stream.map_err(failed)?,
    };
    let mut piece = vec![0; PIECE_BYTES];
    let broken = loop {
        let bytes = match stream.read(&mut piece) {
            Ok(0) => break None,
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => break Some(error),
        };
        file.write_all(&piece[..bytes]).map_err(ClientError::local(part))?;
        running.update(&piece[..bytes]);
        *have += bytes as u64;
        progress.add(bytes);
    };
    match (stream.finish(), broken) {
        (Ok(()), None) => file.sync_all().map_err(ClientError::local(part)),
        // The server knows better why.
        (Err(source), _) => Err(failed(source)),
        (Ok(()), Some(error)) => Err(failed(suppaftp::FtpError::ConnectionError(error))),
    }
}

/// A failure, and how to go on from it.
fn explain(error: ClientError, part: &Path, have: u64, size: Option<u64>) -> ClientError {
    if have == 0 {
        // Nothing to go on from.
        fs::remove_file(part).ok();
        return error;
    }
    let of = size.map(|size| format!(" of {size}")).unwrap_or_default();
    eprintln!("cosgate: {have}{of} bytes are in {}: the same command goes on from there", part.display());
    error
}

/// Reads what is there already into the checksum; how much that is.
fn read_through(file: &mut File, running: &mut Running) -> std::io::Result<u64> {
    let (mut piece, mut have) = (vec![0; PIECE_BYTES], 0);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(have),
            bytes => {
                running.update(&piece[..bytes]);
                have += bytes as u64;
            }
        }
    }
}

fn part_of(into: &Path) -> PathBuf {
    let mut name = OsString::from(into.file_name().unwrap_or_default());
    name.push(".part");
    into.with_file_name(name)
}
