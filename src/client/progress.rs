//! The bar on a terminal, and one line per file on standard output.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{ClientOptions, digest::Verdict, printable};

/// One file on its way.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    name: String,
    is_quiet: bool,
}

impl Progress {
    /// `bytes` in all, where that is known; `from` are there already.
    pub(super) fn begin(options: &ClientOptions, name: &str, bytes: Option<u64>, from: u64) -> Self {
        let target = if options.quiet || !std::io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(bytes, target);
        let template = "{wide_msg} {bytes:>10} of {total_bytes:<10} {bytes_per_sec:>12} {eta:>4} [{bar:20}]";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        let name = printable(name);
        bar.set_message(name.clone());
        bar.set_position(from);
        bar.reset_eta();
        Self { bar, name, is_quiet: options.quiet }
    }

    pub(super) fn add(&self, bytes: usize) {
        self.bar.inc(bytes as u64);
    }

    /// It is there, whole.
    pub(super) fn done(self, bytes: u64, verdict: &Verdict) {
        self.bar.finish_and_clear();
        if !self.is_quiet {
            println!("{}: {bytes} bytes, {verdict}", self.name);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // What follows is an error, and wants a line of its own.
        if !self.bar.is_finished() {
            self.bar.abandon();
        }
    }
}
