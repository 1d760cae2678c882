use std::fmt;

/// Something in the configuration that cannot be used.
///
/// It never quotes the value: what stands in the wrong place may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The key, for example `server.listen`, or the file when it cannot be read at all.
    pub key: String,
    /// What is wrong and what was expected.
    pub problem: String,
}

impl Mistake {
    pub(crate) fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

/// Everything that is wrong with a configuration; at least one mistake.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "the configuration cannot be used: {only}"),
            all => {
                write!(f, "the configuration cannot be used for {} reasons:", all.len())?;
                all.iter().try_for_each(|it| write!(f, "\n  {it}"))
            }
        }
    }
}
