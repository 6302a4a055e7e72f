//! Uploads. The server is told the size before and asked for size and checksum behind; an upload that cannot be
//! finished is aborted, never closed as if it were whole.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use suppaftp::{FtpError, Status};

use super::{
    ClientError, ClientOptions, ClientResult, DEPTH_MAX, Failures, PIECE_BYTES,
    digest::{Check, Running, Verdict},
    listing::{is_plain, join},
    progress::Progress,
    refusal,
    session::{Session, Transfer},
    url::Url,
};

/// Stores files under `url`: a directory where it ends in a slash or there are several, else the name of the only one.
///
/// # Errors
/// What ended the session, or how many files did not get there.
pub fn put(files: &[impl AsRef<Path>], url: &Url, options: &ClientOptions) -> ClientResult<()> {
    let mut plan = Vec::new();
    for local in files.iter().map(AsRef::as_ref) {
        let meta = fs::metadata(local).map_err(ClientError::local(local))?;
        if meta.is_dir() && !options.recursive {
            return Err(ClientError::Usage(format!(
                "{}: is a directory: -r stores it with all that is in it",
                local.display()
            )));
        }
        let is_directory = url.file_name().is_empty() || files.len() > 1;
        let remote = if is_directory { join(&url.path, name_of(local)?) } else { url.path.clone() };
        plan.push((local, remote));
    }
    let mut session = Session::open(url, &options.security)?;
    let mut failures = Failures::of(plan.len());
    for (local, remote) in plan {
        let stored = store(&mut session, local, &remote, options, 0);
        if let Err(error) = &stored
            && error.ends_session()
        {
            tell_what_is_there(url, &remote, options);
        }
        failures.note(stored)?;
    }
    session.close();
    failures.outcome()
}

/// What a file is called at the other end.
fn name_of(local: &Path) -> ClientResult<&str> {
    let name = local.file_name().and_then(|name| name.to_str()).filter(|name| is_plain(name));
    name.ok_or_else(|| ClientError::Usage(format!("{}: has no name that could be sent", local.display())))
}

fn store(
    session: &mut Session,
    local: &Path,
    remote: &str,
    options: &ClientOptions,
    depth: usize,
) -> ClientResult<()> {
    let meta = fs::metadata(local).map_err(ClientError::local(local))?;
    if meta.is_file() {
        return store_file(session, local, remote, meta.len(), options);
    }
    if !meta.is_dir() {
        return Err(ClientError::Other(format!("{}: is neither a file nor a directory", local.display())));
    }
    if depth > DEPTH_MAX {
        return Err(ClientError::Other(format!(
            "{}: directories in each other without end",
            local.display()
        )));
    }
    match session.ftp.mkdir(remote) {
        // It is there already, or what follows will tell why not.
        Err(error) if refusal(&error).is_some_and(|code| code != 421) => {}
        made => made.map_err(ClientError::ftp(format!("MKD {remote}")))?,
    }
    let read =
        || fs::read_dir(local)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
    let mut paths = read().map_err(ClientError::local(local))?;
    paths.sort();
    let mut failures = Failures::of(paths.len());
    for path in paths {
        let stored =
            name_of(&path).and_then(|name| store(session, &path, &join(remote, name), options, depth + 1));
        failures.note(stored)?;
    }
    failures.outcome()
}

fn store_file(
    session: &mut Session,
    local: &Path,
    remote: &str,
    bytes: u64,
    options: &ClientOptions,
) -> ClientResult<()> {
    let mut file = File::open(local).map_err(ClientError::local(local))?;
    let mut running = Check::running(session.check);
    let start = start_of(session, &mut file, remote, bytes, options, &mut running)
        .map_err(|error| error.at(local))?;
    let progress = Progress::begin(options, &local.display().to_string(), Some(bytes), start);
    let sent = transfer(session, &mut file, local, remote, (start, bytes), &mut running, &progress);
    if let Err(error) = sent {
        if !error.ends_session() {
            tell_size(session, remote);
        }
        return Err(error);
    }
    match session.compare(remote, bytes, running)? {
        Verdict::Differs(check) => Err(ClientError::Other(format!(
            "{remote}: the server has other bytes than were sent ({check} differs)"
        ))),
        verdict => {
            progress.done(bytes, &verdict);
            Ok(())
        }
    }
}

/// What went wrong before the first byte.
enum Early {
    Local(std::io::Error),
    Client(ClientError),
}

impl Early {
    fn at(self, local: &Path) -> ClientError {
        match self {
            Self::Local(source) => ClientError::Local { path: local.to_owned(), source },
            Self::Client(error) => error,
        }
    }
}

/// From where to send. What the server has must be the beginning of this file: its checksum says so, or the user.
fn start_of(
    session: &mut Session,
    file: &mut File,
    remote: &str,
    bytes: u64,
    options: &ClientOptions,
    running: &mut Running,
) -> Result<u64, Early> {
    let there = session.size(remote).map_err(Early::Client)?.unwrap_or(0);
    if there == 0 || there >= bytes || (session.check.is_none() && !options.resume) {
        return Ok(0);
    }
    let told = session.check.and_then(|check| check.ask(&mut session.ftp, remote));
    if told.is_none() && !options.resume {
        return Ok(0);
    }
    let (mut piece, mut left) = (vec![0; PIECE_BYTES], there);
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        file.read_exact(&mut piece[..take]).map_err(Early::Local)?;
        running.update(&piece[..take]);
        left -= take as u64;
    }
    if told.is_none_or(|told| told == running.clone().finish()) {
        return Ok(there);
    }
    file.seek(SeekFrom::Start(0)).map_err(Early::Local)?;
    *running = Check::running(session.check);
    Ok(0)
}

fn transfer(
    session: &mut Session,
    file: &mut File,
    local: &Path,
    remote: &str,
    (start, bytes): (u64, u64),
    running: &mut Running,
    progress: &Progress,
) -> ClientResult<()> {
    let failed = |source| ClientError::Ftp { doing: format!("STOR {remote}"), source };
    let mut start = start;
    let mut stream = match begin(session, remote, start, bytes) {
        // It continues nothing: all of it, then.
        Err(error) if start > 0 && refusal(&error).is_some_and(|code| code != 421) => {
            file.seek(SeekFrom::Start(0)).map_err(ClientError::local(local))?;
            (start, *running) = (0, Check::running(session.check));
            begin(session, remote, 0, bytes).map_err(failed)?
        }
        stream => stream.map_err(failed)?,
    };
    let mut left = bytes - start;
    let mut piece = vec![0; PIECE_BYTES];
    // Over TLS nothing is said before the first write, be it of nothing.
    let mut written = stream.write_all(b"").and_then(|()| stream.flush());
    while left > 0 && written.is_ok() {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        match read_some(file, &mut piece[..take]) {
            Ok(0) => {
                give_up(session, stream);
                return Err(ClientError::Other(format!(
                    "{}: became shorter meanwhile; the upload is given up",
                    local.display()
                )));
            }
            Ok(got) => {
                running.update(&piece[..got]);
                written = stream.write_all(&piece[..got]);
                left -= got as u64;
                progress.add(got);
            }
            Err(source) => {
                give_up(session, stream);
                return Err(ClientError::Local { path: local.to_owned(), source });
            }
        }
    }
    let written = written.and_then(|()| stream.flush());
    match (stream.finish(), written) {
        (Ok(()), Ok(())) => Ok(()),
        // The server knows better why.
        (Err(source), _) => Err(failed(source)),
        (Ok(()), Err(error)) => Err(failed(FtpError::ConnectionError(error))),
    }
}

fn begin(session: &mut Session, remote: &str, start: u64, bytes: u64) -> suppaftp::FtpResult<Transfer> {
    // A server that remembers it takes nothing shorter for the whole; others need not know it.
    let good = [Status::CommandOk, Status::CommandNotImplemented];
    match session.ftp.custom_command(format!("ALLO {}", bytes - start), &good) {
        Err(error) if matches!(refusal(&error), None | Some(421 | 452 | 552)) => return Err(error),
        Ok(_) | Err(_) => {}
    }
    session.ftp.resume_transfer(usize::try_from(start).unwrap_or(usize::MAX))?;
    session.ftp.put_with_stream(remote)
}

fn read_some(file: &mut impl Read, piece: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match file.read(piece) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// The end of the data connection would look like the end of the file: ABOR comes first.
fn give_up(session: &mut Session, stream: Transfer) {
    session.ftp.abort(stream).ok();
}

/// After a failure: what became of the name.
fn tell_size(session: &mut Session, remote: &str) {
    match session.size(remote) {
        Ok(Some(bytes)) => eprintln!("cosgate: the server holds {bytes} bytes under {remote}"),
        Ok(None) => eprintln!("cosgate: the server holds nothing under {remote}"),
        Err(_) => {}
    }
}

/// The same, over a new connection.
fn tell_what_is_there(url: &Url, remote: &str, options: &ClientOptions) {
    match Session::open(url, &options.security) {
        Ok(mut session) => {
            tell_size(&mut session, remote);
            session.close();
        }
        Err(_) => eprintln!("cosgate: what the server holds under {remote} is unknown: it does not answer"),
    }
}
