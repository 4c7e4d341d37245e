//! PRAGMAs of a transaction: what foreign keys do in it, set and read.
//!
//! They run nowhere. A read answers what SQLite would at that point: what the request asked for, or was set last.

use flotilla_shared::error::Error;
use flotilla_shared::script::ForeignKeys;

use super::{Role, record};
use crate::lex::Tokens;

/// What may be set and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `PRAGMA foreign_keys`.
    ForeignKeys,
    /// `PRAGMA defer_foreign_keys`.
    DeferForeignKeys,
}

impl Setting {
    /// The PRAGMA, and the column that it answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::ForeignKeys => "foreign_keys",
            Self::DeferForeignKeys => "defer_foreign_keys",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::ForeignKeys, Self::DeferForeignKeys].into_iter().find(|setting| setting.name() == name)
    }
}

/// The settings at one point of a transaction.
#[derive(Debug)]
pub struct Settings {
    foreign_keys: bool,
    defer_foreign_keys: bool,
    /// A PRAGMA asks for foreign keys not to act.
    pub unenforced: bool,
}

impl Settings {
    /// At the beginning of a transaction whose request asks for this.
    pub fn new(asked: Option<ForeignKeys>) -> Self {
        let foreign_keys = asked.is_none_or(|asked| asked == ForeignKeys::Enforced);
        Self { foreign_keys, defer_foreign_keys: false, unenforced: false }
    }

    /// What a PRAGMA is, which counts from now on; `None` for any other statement.
    ///
    /// # Errors
    /// Another PRAGMA.
    pub fn take(&mut self, tokens: &Tokens<'_>) -> Result<Option<Role>, Error> {
        if !tokens.is_word(0, "PRAGMA") {
            return Ok(None);
        }
        let name_at = if tokens.is_mark(2, ".") { 3 } else { 1 };
        let name = tokens.name(name_at).unwrap_or_default().to_ascii_lowercase();
        if name == "foreign_key_check" {
            // So that its answer, none, is true of what the transaction does.
            self.unenforced = true;
            return Ok(Some(Role::Check));
        }
        let forbidden = || {
            record::forbidden(
                format!("PRAGMA {name} cannot be part of a transaction"),
                "foreign_keys, defer_foreign_keys and foreign_key_check can",
            )
        };
        let setting = Setting::named(&name).ok_or_else(forbidden)?;
        let is_end = |index: usize| tokens.list.get(index).is_none() || tokens.is_mark(index, ";");
        let place = match setting {
            Setting::ForeignKeys => &mut self.foreign_keys,
            Setting::DeferForeignKeys => &mut self.defer_foreign_keys,
        };
        if is_end(name_at + 1) {
            return Ok(Some(Role::Read(setting, *place)));
        }
        let value = tokens.name(name_at + 2).unwrap_or_else(|| tokens.text(name_at + 2).to_owned());
        *place = match value.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" => true,
            "off" | "false" | "no" | "0" => false,
            _ => return Err(forbidden()),
        };
        self.unenforced |= *place == (setting == Setting::DeferForeignKeys);
        Ok(Some(Role::Setting))
    }
}
