//! `MountStorage`: the stock file backend, with transfers, listings, CWD and rename of our own.
//!
//! libunftp calls it once per command. What the stock backend does well (DELE, RMD, MKD) it does; what it
//! says about a failure is kept here as an errno, because libunftp's replies would blur it. Bytes never come
//! through the streams that libunftp offers: an order in the session's context holds the client's own
//! connection.

use std::{
    fmt::{self, Debug},
    io::{self, Cursor},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use unftp_core::{
    auth::UserDetail,
    storage::{Error, ErrorKind, FEATURE_RESTART, Fileinfo, Metadata, Result, StorageBackend},
};
use unftp_sbe_fs::Meta;

use super::{
    home::{Facts, Kind, Root, blocking, is_away},
    path::ClientPath,
    rate::Throttle,
    receive::receive,
    reply::errno_of,
    send::send,
    transfer::Order,
    users::User,
};

/// What the desk and the storage of one session share.
#[derive(Debug)]
pub(super) struct SessionContext {
    user: Arc<User>,
    throttle: Arc<Throttle>,
    order: Mutex<Option<Order>>,
    report: Mutex<Report>,
}

/// What a storage call has found out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Report {
    pub(super) failure: Option<Errno>,
    pub(super) facts: Option<Facts>,
}

impl SessionContext {
    pub(super) fn new(user: Arc<User>) -> Self {
        let throttle = Arc::new(Throttle::new(user.rates().clone()));
        Self { user, throttle, order: Mutex::new(None), report: Mutex::new(Report::default()) }
    }

    pub(super) fn user(&self) -> &Arc<User> {
        &self.user
    }

    pub(super) fn throttle(&self) -> &Arc<Throttle> {
        &self.throttle
    }

    /// The next transfer is about this.
    pub(super) fn place(&self, order: Order) {
        *self.order.lock() = Some(order);
    }

    /// Takes back an order that nobody has performed.
    pub(super) fn withdraw(&self) -> Option<Order> {
        self.order.lock().take()
    }

    /// The report of the last call, which is forgotten by it.
    pub(super) fn take_report(&self) -> Report {
        std::mem::take(&mut *self.report.lock())
    }

    fn fail(&self, errno: Errno) -> Error {
        self.report.lock().failure = Some(errno);
        Error::new(ErrorKind::LocalError, io::Error::from(errno))
    }
}

/// The user as libunftp knows it. Home is the root itself: there is nothing to narrow.
#[derive(Debug)]
pub(super) struct InnerUser(pub(super) String);

impl UserDetail for InnerUser {}

impl fmt::Display for InnerUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The storage of one session.
#[derive(Debug)]
pub(super) struct MountStorage {
    context: Arc<SessionContext>,
}

impl MountStorage {
    pub(super) fn new(context: Arc<SessionContext>) -> Self {
        Self { context }
    }

    async fn root(&self) -> Result<Arc<Root>> {
        let home = self.context.user.home.clone();
        blocking(move || home.root()).await.map_err(|error| self.context.fail(errno_of(&error)))
    }

    /// A command of the stock backend; once more on a new root where the mount had died before.
    async fn stock<F>(&self, deed: impl Fn(Arc<Root>) -> F + Send) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send,
    {
        for is_last in [false, true] {
            let root = self.root().await?;
            let Err(error) = deed(root.clone()).await else { return Ok(()) };
            let errno = error.get_io_error().map_or(Errno::IO, errno_of);
            if is_away(&errno.into()) {
                self.context.user.home.leave(&root);
            }
            // ECONNABORTED: it was under way, and may have been done.
            if errno != Errno::NOTCONN || is_last {
                return Err(self.context.fail(errno));
            }
        }
        unreachable!("the last round returns")
    }

    async fn on_home<T: Send + 'static>(
        &self,
        deed: impl Fn(&Arc<Root>) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let done = self.context.user.home.run(deed).await;
        done.map_err(|error| self.context.fail(errno_of(&error)))
    }

    /// Performs the order that the desk has placed.
    async fn perform(&self, is_upload: bool) -> Result<u64> {
        let order = self.context.withdraw().ok_or_else(|| self.context.fail(Errno::INVAL))?;
        let home = &self.context.user.home;
        let done = if is_upload { receive(home, order).await } else { send(home, order).await };
        done.map_err(|errno| self.context.fail(errno))
    }
}

/// libunftp hands over absolute paths, as the desk has made them.
fn client_path(path: impl AsRef<Path>) -> ClientPath {
    ClientPath::home().join(&path.as_ref().to_string_lossy())
}

#[async_trait]
impl StorageBackend<InnerUser> for MountStorage {
    type Metadata = Meta;

    fn enter(&mut self, user: &InnerUser) -> io::Result<()> {
        // The generator has made this storage for one user and no other.
        if user.0 == self.context.user.name { Ok(()) } else { Err(Errno::PERM.into()) }
    }

    fn name(&self) -> &str {
        "cosgate"
    }

    fn supported_features(&self) -> u32 {
        FEATURE_RESTART
    }

    async fn metadata<P: AsRef<Path> + Send + Debug>(&self, user: &InnerUser, path: P) -> Result<Meta> {
        let (path, plain) = (client_path(&path), path.as_ref().to_owned());
        // The stock backend does not tell why it fails, nor the inode number.
        let (root, facts) = self.on_home(move |root| Ok((root.clone(), root.look(&path)?))).await?;
        self.context.report.lock().facts = Some(facts);
        let found = root.stock().metadata(user, plain).await;
        found.map_err(|_| self.context.fail(Errno::NOENT))
    }

    async fn list<P: AsRef<Path> + Send + Debug>(
        &self,
        _user: &InnerUser,
        _path: P,
    ) -> Result<Vec<Fileinfo<PathBuf, Meta>>>
    where
        Meta: Metadata,
    {
        self.perform(false).await.map(|_| Vec::new())
    }

    async fn list_fmt<P: AsRef<Path> + Send + Debug>(
        &self,
        _user: &InnerUser,
        _path: P,
    ) -> std::result::Result<Cursor<Vec<u8>>, Error>
    where
        Meta: Metadata + 'static,
    {
        self.perform(false).await.map(|_| Cursor::new(Vec::new()))
    }

    async fn nlst<P: AsRef<Path> + Send + Debug>(
        &self,
        _user: &InnerUser,
        _path: P,
    ) -> std::result::Result<Cursor<Vec<u8>>, io::Error>
    where
        Meta: Metadata + 'static,
    {
        self.perform(false).await.map(|_| Cursor::new(Vec::new())).map_err(io::Error::other)
    }

    async fn get<P: AsRef<Path> + Send + Debug>(
        &self,
        _user: &InnerUser,
        _path: P,
        _start: u64,
    ) -> Result<Box<dyn AsyncRead + Send + Sync + Unpin>> {
        // Only SITE MD5 would ask, and the desk does not let it through.
        Err(self.context.fail(Errno::OPNOTSUPP))
    }

    async fn get_into<'a, P, W>(
        &self,
        _user: &InnerUser,
        _path: P,
        _start: u64,
        _output: &'a mut W,
    ) -> Result<u64>
    where
        W: AsyncWrite + Unpin + Sync + Send + ?Sized,
        P: AsRef<Path> + Send + Debug,
    {
        self.perform(false).await
    }

    async fn put<P: AsRef<Path> + Send + Debug, R: AsyncRead + Send + Sync + Unpin + 'static>(
        &self,
        _user: &InnerUser,
        _input: R,
        _path: P,
        _start: u64,
    ) -> Result<u64> {
        self.perform(true).await
    }

    async fn del<P: AsRef<Path> + Send + Debug>(&self, user: &InnerUser, path: P) -> Result<()> {
        let path = path.as_ref().to_owned();
        self.stock(|root| {
            let path = path.clone();
            async move { root.stock().del(user, path).await }
        })
        .await
    }

    async fn mkd<P: AsRef<Path> + Send + Debug>(&self, user: &InnerUser, path: P) -> Result<()> {
        let path = path.as_ref().to_owned();
        self.stock(|root| {
            let path = path.clone();
            async move { root.stock().mkd(user, path).await }
        })
        .await
    }

    async fn rmd<P: AsRef<Path> + Send + Debug>(&self, user: &InnerUser, path: P) -> Result<()> {
        let path = path.as_ref().to_owned();
        self.stock(|root| {
            let path = path.clone();
            async move { root.stock().rmd(user, path).await }
        })
        .await
    }

    async fn rename<P: AsRef<Path> + Send + Debug>(&self, _user: &InnerUser, from: P, to: P) -> Result<()> {
        let (from, to) = (client_path(from), client_path(to));
        self.on_home(move |root| root.rename(&from, &to)).await
    }

    async fn cwd<P: AsRef<Path> + Send + Debug>(&self, _user: &InnerUser, path: P) -> Result<()> {
        let path = client_path(path);
        self.on_home(move |root| match root.look(&path)?.kind {
            Kind::Directory => Ok(()),
            Kind::File | Kind::Link | Kind::Other => Err(Errno::NOTDIR.into()),
        })
        .await
    }
}
