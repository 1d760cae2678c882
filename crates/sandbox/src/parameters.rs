use url::form_urlencoded;

/// Request parameters: of a query, or of a form in the body.
///
/// One without a value counts as absent ([RFC 6749 §3.1](https://www.rfc-editor.org/rfc/rfc6749#section-3.1)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(crate) fn parse(encoded: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(encoded).into_owned();
        Self(pairs.filter(|(_, value)| !value.is_empty()).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that is there twice, which is not allowed.
    pub(crate) fn repeated(&self) -> Option<&str> {
        let mut names = self.0.iter().map(|(name, _)| name.as_str()).enumerate();
        names
            .find(|(at, name)| self.0[..*at].iter().any(|(it, _)| it == name))
            .map(|(_, name)| name)
    }

    /// Takes a parameter out.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(it, _)| it == name)?;
        Some(self.0.remove(at).1)
    }

    pub(crate) fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn encoded(&self) -> String {
        encode(&self.0)
    }
}

/// The pairs as a query or form.
pub(crate) fn encode(pairs: &[(String, String)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// The values in a list that is separated by spaces, each once.
pub(crate) fn words(list: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in list.split(' ').filter(|it| !it.is_empty()) {
        if !words.iter().any(|it| it == word) {
            words.push(word.to_owned());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_is_there_twice_is_found() {
        assert_eq!(Parameters::parse(b"a=1&b=2&a=1").repeated(), Some("a"));
        assert_eq!(Parameters::parse(b"a=1&b=2&a=").repeated(), None);
    }
}
