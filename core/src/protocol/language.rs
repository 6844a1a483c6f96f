//! The language a peer announces (`LanguageCode.java`).

/// Programming language of a peer's client. An unknown one never fails a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Language {
    Java,
    Cpp,
    DotNet,
    Python,
    Delphi,
    Erlang,
    Ruby,
    Other,
    Http,
    Go,
    Php,
    Oms,
    Rust,
    NodeJs,
    /// A name or number outside the table, or none at all; written as `OTHER`.
    #[default]
    Unknown,
}

/// Name and language; the index is the number on the wire.
const NAMES: [(&str, Language); 14] = [
    ("JAVA", Language::Java),
    ("CPP", Language::Cpp),
    ("DOTNET", Language::DotNet),
    ("PYTHON", Language::Python),
    ("DELPHI", Language::Delphi),
    ("ERLANG", Language::Erlang),
    ("RUBY", Language::Ruby),
    ("OTHER", Language::Other),
    ("HTTP", Language::Http),
    ("GO", Language::Go),
    ("PHP", Language::Php),
    ("OMS", Language::Oms),
    ("RUST", Language::Rust),
    ("NODE_JS", Language::NodeJs),
];

impl Language {
    pub fn from_name(name: &str) -> Language {
        let found = NAMES.iter().find(|entry| entry.0 == name);
        found.map_or(Language::Unknown, |entry| entry.1)
    }

    pub fn from_code(code: u8) -> Language {
        NAMES.get(usize::from(code)).map_or(Language::Unknown, |entry| entry.1)
    }

    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.code())].0
    }

    /// The number on the wire. `Unknown` is written as `OTHER`.
    pub fn code(self) -> u8 {
        match self {
            Language::Unknown => Language::Other as u8,
            known => known as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for (index, (name, language)) in NAMES.iter().enumerate() {
            assert_eq!(usize::from(language.code()), index);
            assert_eq!(Language::from_code(index as u8), *language);
            assert_eq!(Language::from_name(name), *language);
            assert_eq!(language.name(), *name);
        }
        assert_eq!(Language::from_name("COBOL"), Language::Unknown);
        assert_eq!(Language::from_code(200), Language::Unknown);
        assert_eq!(Language::Unknown.name(), "OTHER");
    }
}
