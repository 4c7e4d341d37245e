//! Faults that can be put between a cluster and the comparison, to see that it notices them.

use flotilla_shared::value::Value;
use flotilla_shared::wire::Statement;

use super::compare::Outcome;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The last of three or more rows is lost.
    LostRow,
    /// The first of two or more rows comes twice, the last is left out.
    DoubledRow,
    /// NULLs of the first column come last.
    NullsLast,
    /// A real where an integer was.
    RealForInteger,
    /// A column has another name.
    ColumnName,
    /// Trailing spaces are lost.
    TrimmedText,
    /// UPDATE is applied twice and answered once.
    AppliedTwice,
    /// Where several rows are affected one is not counted.
    Miscounted,
}

impl Bug {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::LostRow,
        Self::DoubledRow,
        Self::NullsLast,
        Self::RealForInteger,
        Self::ColumnName,
        Self::TrimmedText,
        Self::AppliedTwice,
        Self::Miscounted,
    ];

    /// What is sent in place of a statement: the first one's answer counts.
    pub fn sent(self, statement: &Statement) -> Vec<Statement> {
        let begins = |word: &str| statement.sql.starts_with(word);
        match self {
            Self::AppliedTwice if begins("UPDATE") => vec![statement.clone(); 2],
            _ => vec![statement.clone()],
        }
    }

    /// What arrives in place of an answer.
    pub fn received(self, outcome: &mut Outcome) {
        if let (Self::Miscounted, Outcome::Write(result)) = (self, &mut *outcome) {
            result.rows_affected -= u64::from(result.rows_affected > 1);
        }
        let Outcome::Rows(rows) = outcome else { return };
        let values = &mut rows.values;
        match self {
            Self::LostRow if values.len() > 2 => drop(values.pop()),
            Self::DoubledRow if values.len() > 1 => {
                values.pop();
                values.insert(0, values[0].clone());
            }
            Self::NullsLast => values.sort_by_key(|row| row.first() == Some(&Value::Null)),
            Self::RealForInteger => values.iter_mut().flatten().for_each(|value| {
                if let Value::Integer(1) = value {
                    *value = Value::Real(1.0);
                }
            }),
            Self::ColumnName => rows.columns[0].push('_'),
            Self::TrimmedText => values.iter_mut().flatten().for_each(|value| {
                if let Value::Text(text) = value {
                    text.truncate(text.trim_end().len());
                }
            }),
            _ => (),
        }
    }
}
