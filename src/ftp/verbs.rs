//! All verbs in one table: how they are written, and what holds for a verb whatever its argument.

/// A verb that this server performs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verb {
    pub(super) name: &'static str,
    /// Its arguments, as HELP shows them.
    pub(super) syntax: &'static str,
    needs_login: bool,
    /// May stand between REST and the transfer that it is about: clients ask for size, type and a data
    /// connection just there (RFC 3659 section 5.1 wants none at all).
    keeps_restart: bool,
}

const fn verb(name: &'static str, syntax: &'static str) -> Verb {
    Verb { name, syntax, needs_login: true, keeps_restart: false }
}

impl Verb {
    const fn before_login(self) -> Self {
        Self { needs_login: false, ..self }
    }

    const fn behind_rest(self) -> Self {
        Self { keeps_restart: true, ..self }
    }
}

/// What may follow the verb of a checksum.
const WITH_RANGE: &str = "<path>, or \"<path>\" <start> <end>";

const VERBS: &[Verb] = &[
    verb("ABOR", ""),
    verb("ACCT", "<text>"),
    verb("ALLO", "<bytes>").behind_rest(),
    verb("APPE", "<path>").behind_rest(),
    verb("AUTH", "TLS").before_login(),
    verb("AVBL", "[<path>]"),
    verb("BYE", "").before_login(),
    verb("CCC", "").before_login(),
    verb("CDUP", ""),
    verb("CLNT", "<name>").before_login().behind_rest(),
    verb("CWD", "<path>"),
    verb("DELE", "<path>"),
    verb("EPRT", "|<family>|<address>|<port>|").behind_rest(),
    verb("EPSV", "[1|2|ALL]").behind_rest(),
    verb("FEAT", "").before_login().behind_rest(),
    verb("HASH", "<path>").behind_rest(),
    verb("HELP", "[<verb>|SITE]").before_login().behind_rest(),
    verb("HOST", "<name>").before_login(),
    verb("LANG", "[EN]").before_login(),
    verb("LIST", "[-<options>] [<path or pattern>]"),
    verb("MD5", WITH_RANGE),
    verb("MDTM", "<path>, or <YYYYMMDDHHMMSS> <path>").behind_rest(),
    verb("MFMT", "<YYYYMMDDHHMMSS> <path>"),
    verb("MKD", "<path>"),
    verb("MLSD", "[<path>]"),
    verb("MLST", "[<path>]").behind_rest(),
    verb("MODE", "S|Z").behind_rest(),
    verb("NLST", "[-<options>] [<path or pattern>]"),
    verb("NOOP", "").before_login().behind_rest(),
    verb("OPTS", "UTF8 [ON|OFF] | MLST <facts> | HASH [<algorithm>] | MODE Z [LEVEL <0-9>]")
        .before_login()
        .behind_rest(),
    verb("PASS", "<password>").before_login(),
    verb("PASV", "").behind_rest(),
    verb("PBSZ", "0").before_login().behind_rest(),
    verb("PORT", "<h1,h2,h3,h4,p1,p2>").behind_rest(),
    verb("PROT", "C|P").before_login().behind_rest(),
    verb("PWD", "").behind_rest(),
    verb("QUIT", "").before_login(),
    verb("RANG", "<start> <end>").behind_rest(),
    verb("REIN", "").before_login(),
    verb("REST", "<offset>").behind_rest(),
    verb("RETR", "<path>").behind_rest(),
    verb("RMD", "<path>"),
    verb("RNFR", "<path>"),
    verb("RNTO", "<path>"),
    verb("SITE", "CHMOD|HELP|QUOTA|UTIME ..."),
    verb("SIZE", "<path>").behind_rest(),
    verb("STAT", "[<path>]").behind_rest(),
    verb("STOR", "<path>").behind_rest(),
    verb("STOU", "[<path>]").behind_rest(),
    verb("STRU", "F").behind_rest(),
    verb("SYST", "").before_login().behind_rest(),
    verb("TYPE", "A|I|L 8").behind_rest(),
    verb("USER", "<name>").before_login(),
    verb("XCRC", WITH_RANGE),
    verb("XCUP", ""),
    verb("XCWD", "<path>"),
    verb("XDEL", "<path>"),
    verb("XMD5", WITH_RANGE),
    verb("XMKD", "<path>"),
    verb("XNLS", "[-<options>] [<path or pattern>]"),
    verb("XPWD", "").behind_rest(),
    verb("XRET", "<path>").behind_rest(),
    verb("XRMD", "<path>"),
    verb("XSHA", WITH_RANGE),
    verb("XSHA1", WITH_RANGE),
    verb("XSHA256", WITH_RANGE),
    verb("XSHA512", WITH_RANGE),
    verb("XSIZ", "<path>").behind_rest(),
    verb("XSTA", "[<path>]").behind_rest(),
    verb("XSTO", "<path>").behind_rest(),
];

/// Verbs of the RFCs that this server knows and does not perform.
const FOREIGN: &[&str] =
    &["ADAT", "COMB", "CONF", "DSIZ", "ENC", "LPRT", "LPSV", "MFCT", "MFF", "MIC", "SMNT"];

/// All that are performed, in the order of the alphabet.
pub(super) fn all() -> impl Iterator<Item = &'static Verb> {
    VERBS.iter()
}

/// The verb of that name, in capitals.
pub(super) fn find(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

/// Whether it is a verb that is answered by 502.
pub(super) fn is_foreign(name: &str) -> bool {
    FOREIGN.contains(&name)
}

/// Whether a verb may be said before login.
pub(super) fn needs_no_login(name: &str) -> bool {
    find(name).is_some_and(|verb| !verb.needs_login)
}

/// Whether a REST that has been said outlives this verb. One that is misheard was no command at all.
pub(super) fn keeps_restart(name: &str) -> bool {
    find(name).is_none_or(|verb| verb.keeps_restart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_no_verb_is_both_known_and_foreign() {
        let names: Vec<&str> = all().map(|verb| verb.name).collect();
        assert!(names.is_sorted());
        assert!(names.iter().all(|name| !is_foreign(name)));
        assert!(needs_no_login("USER") && !needs_no_login("LIST") && !needs_no_login("FROB"));
        assert!(keeps_restart("PASV") && keeps_restart("FROB") && !keeps_restart("LIST"));
    }
}
