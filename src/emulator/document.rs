//! XML both ways: documents of the emulator, and those of clients as a small tree.

use std::fmt::Write as _;

use quick_xml::{Reader, events::Event};

use super::{
    dialect::Dialect,
    error::{self, ApiError},
    request::encode,
};

/// A document in the making.
#[derive(Debug)]
pub(super) struct Xml {
    text: String,
    /// `encoding-type=url` was asked for.
    url_encoded: bool,
    /// What the next element carries in its tag: the root does, once.
    name_space: &'static str,
}

/// As COS writes it.
pub(super) const DECLARATION: &str = "<?xml version='1.0' encoding='utf-8' ?>\n";

impl Xml {
    pub(super) fn with_declaration(dialect: Dialect) -> Self {
        Self { text: DECLARATION.to_owned(), ..Self::bare(dialect) }
    }

    /// For answers whose declaration left earlier.
    pub(super) fn bare(dialect: Dialect) -> Self {
        Self { text: String::new(), url_encoded: false, name_space: dialect.name_space() }
    }

    #[must_use]
    pub(super) fn url_encoded(mut self, wanted: bool) -> Self {
        self.url_encoded = wanted;
        self
    }

    pub(super) fn open(&mut self, name: &str) {
        let name_space = std::mem::take(&mut self.name_space);
        write!(self.text, "<{name}{name_space}>").expect("a String takes every write");
    }

    pub(super) fn close(&mut self, name: &str) {
        let name = name.split(' ').next().unwrap_or(name);
        write!(self.text, "</{name}>").expect("a String takes every write");
    }

    pub(super) fn leaf(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            let name_space = std::mem::take(&mut self.name_space);
            write!(self.text, "<{name}{name_space}/>").expect("a String takes every write");
            return;
        }
        self.open(name);
        self.escaped(value);
        self.close(name);
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        write!(self.text, "<{name}>{value}</{name}>").expect("a String takes every write");
    }

    /// A key, prefix, marker or delimiter: percent-encoded where the client asked for it.
    pub(super) fn key(&mut self, name: &str, value: &str) {
        if self.url_encoded {
            self.leaf(name, &encode(value.as_bytes(), true));
        } else {
            self.leaf(name, value);
        }
    }

    /// ID and display name of an account, as `Owner` or `Initiator`.
    pub(super) fn account(&mut self, name: &str, id: &str) {
        self.open(name);
        self.leaf("ID", id);
        self.leaf("DisplayName", id);
        self.close(name);
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    /// Control characters go out raw, as COS sends them: a document with one is no XML 1.0.
    fn escaped(&mut self, value: &str) {
        for character in value.chars() {
            match character {
                '&' => self.text.push_str("&amp;"),
                '<' => self.text.push_str("&lt;"),
                '>' => self.text.push_str("&gt;"),
                '"' => self.text.push_str("&quot;"),
                _ => self.text.push(character),
            }
        }
    }
}

/// An element of a client's document; names without their prefix.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) children: Vec<Element>,
}

/// Deepest nesting that is read.
const DEPTH_MAX: usize = 8;

impl Element {
    /// The root of a document.
    ///
    /// # Errors
    /// `MalformedXML`
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(bytes).map_err(|_| error::MALFORMED_XML)?;
        let mut reader = Reader::from_str(text);
        let mut stack = vec![Self::default()];
        let malformed = error::MALFORMED_XML;
        loop {
            let event = reader.read_event().map_err(|_| malformed.clone())?;
            let top = stack.len() - 1;
            match event {
                Event::Start(start) if stack.len() <= DEPTH_MAX => {
                    stack.push(Self::named(start.local_name().as_ref()));
                }
                Event::Start(_) => return Err(malformed),
                Event::Empty(start) => {
                    let element = Self::named(start.local_name().as_ref());
                    stack[top].children.push(element);
                }
                Event::End(_) => {
                    let element = stack.pop().ok_or_else(|| malformed.clone())?;
                    stack.last_mut().ok_or_else(|| malformed.clone())?.children.push(element);
                }
                Event::Text(text) => {
                    stack[top].text.push_str(&text.xml10_content());
                }
                Event::CData(data) => {
                    // A CDATA-wrapped ETag is not taken for the ETag: users report InvalidPart.
                    write!(stack[top].text, "<![CDATA[{}]]>", &*data).expect("a String takes every write");
                }
                Event::GeneralRef(reference) => {
                    stack[top].text.push(resolve(&reference).ok_or_else(|| malformed.clone())?);
                }
                Event::Eof => break,
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) | Event::DocType(_) => {}
            }
        }
        let mut outer = stack.pop().filter(|_| stack.is_empty()).ok_or_else(|| malformed.clone())?;
        if outer.children.len() != 1 {
            return Err(malformed);
        }
        Ok(outer.children.remove(0))
    }

    /// The text of the first child of that name.
    pub(super) fn child_text(&self, name: &str) -> Option<&str> {
        self.children.iter().find(|child| child.name == name).map(|child| child.text.as_str())
    }

    fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

fn resolve(reference: &quick_xml::events::BytesRef<'_>) -> Option<char> {
    if let Ok(Some(character)) = reference.resolve_char_ref() {
        return Some(character);
    }
    match &**reference {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_clients_are_read() {
        let text =
            b"<?xml version=\"1.0\"?>\n<a:Delete xmlns:a=\"x\"><Object><Key>a &amp;&#x4e2d; b</Key></Object>\
                     <Quiet/></a:Delete>";
        let root = Element::parse(text).unwrap();
        assert_eq!(root.name, "Delete");
        assert_eq!(root.children[0].child_text("Key"), Some("a &\u{4e2d} b"));
        assert_eq!(root.child_text("Quiet"), Some(""));
        for broken in ["", "<a>", "<a></b>", "text", "<a/><b/>", "<a>&nope;</a>"] {
            assert_eq!(Element::parse(broken.as_bytes()), Err(error::MALFORMED_XML), "{broken}");
        }
    }

    #[test]
    fn keys_are_encoded_only_where_asked() {
        let mut xml = Xml::bare(Dialect::Cos).url_encoded(true);
        xml.key("Key", "a b/中+");
        assert_eq!(xml.finish(), "<Key>a%20b/%E4%B8%AD%2B</Key>");
        let mut xml = Xml::bare(Dialect::Cos);
        xml.key("Key", "<&>");
        xml.leaf("Prefix", "");
        assert_eq!(xml.finish(), "<Key>&lt;&amp;&gt;</Key><Prefix/>");
    }

    #[test]
    fn root_carries_the_name_space_of_s3() {
        let mut xml = Xml::bare(Dialect::S3);
        xml.open("Root");
        xml.leaf("Leaf", "");
        xml.close("Root");
        assert_eq!(xml.finish(), "<Root xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Leaf/></Root>");
    }
}
