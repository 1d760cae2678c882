use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use symbolon_domain::page::PageRequest;
use url::form_urlencoded;

use super::row_id;
use crate::error::ApiError;

/// The parameters of a query string. Each is taken once; what is left over is refused, because a
/// filter with a slip in its name would find too much.
pub(crate) struct QueryString<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> QueryString<'a> {
    /// Splits a query; none is an empty one.
    pub(crate) fn parse(query: Option<&'a str>) -> Self {
        Self(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect())
    }

    /// The value of a parameter.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let Some(at) = self.0.iter().position(|(key, _)| key == name) else { return Ok(None) };
        let (_, value) = self.0.remove(at);
        if self.0.iter().any(|(key, _)| key == name) {
            return Err(ApiError::invalid(name, "must be given once"));
        }
        if value.contains('\0') {
            return Err(ApiError::invalid(name, "must hold no NUL character"));
        }
        Ok(Some(value.into_owned()))
    }

    /// A parameter that is a text of some other type.
    pub(crate) fn parsed<T, E: std::fmt::Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(String) -> Result<T, E>,
    ) -> Result<Option<T>, ApiError> {
        let parsed = self.text(name)?.map(parse).transpose();
        parsed.map_err(|problem| ApiError::invalid(name, problem))
    }

    /// A parameter that is a row id.
    pub(crate) fn id(&mut self, name: &str) -> Result<Option<i64>, ApiError> {
        self.parsed(name, |text| row_id(&text).ok_or("must be a positive integer"))
    }

    /// A parameter that is `true` or `false`.
    pub(crate) fn flag(&mut self, name: &str, default: bool) -> Result<bool, ApiError> {
        let flag = self.parsed(name, |text| match text.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("must be `true` or `false`"),
        })?;
        Ok(flag.unwrap_or(default))
    }

    /// `limit` and `cursor`.
    pub(crate) fn page(&mut self) -> Result<PageRequest, ApiError> {
        let limit = self.parsed("limit", |text| {
            let limit = row_id(&text).and_then(|it| u16::try_from(it).ok());
            limit.filter(|it| *it <= 200).ok_or("must be 1 to 200")
        })?;
        let after = self.parsed("cursor", |text| {
            read_cursor(&text).ok_or("must be the `next_cursor` of an earlier answer")
        })?;
        Ok(PageRequest { limit: limit.unwrap_or(PageRequest::default().limit), after })
    }

    /// Ends the reading.
    pub(crate) fn end(self) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => {
                let name: String = key.chars().filter(|it| !it.is_control()).take(64).collect();
                Err(ApiError::invalid(&name, "there is no such parameter"))
            }
        }
    }
}

/// Where a list goes on, in a form that invites nobody to count.
pub(crate) fn write_cursor(after: i64) -> String {
    URL_SAFE_NO_PAD.encode(after.to_be_bytes())
}

/// Reads it back.
pub(crate) fn read_cursor(text: &str) -> Option<i64> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let after = i64::from_be_bytes(bytes.try_into().ok()?);
    (after >= 0).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        for id in [0, 1, 255, 256, i64::MAX] {
            assert_eq!(read_cursor(&write_cursor(id)), Some(id));
        }
        for bad in ["", "1", "AAAAAAAAAAE=", "AAAAAAAAAAF", "__________8", "AAAAAAAAAAEA", "é"] {
            assert_eq!(read_cursor(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_parameter_is_taken_once_and_none_is_left_over() {
        let mut query = QueryString::parse(Some("a=1&b=x+%26"));
        assert_eq!(query.id("a").unwrap(), Some(1));
        assert_eq!(query.text("b").unwrap().as_deref(), Some("x &"));
        assert_eq!(query.text("c").unwrap(), None);
        assert!(query.end().is_ok());

        assert!(QueryString::parse(Some("a=1&a=1")).text("a").is_err());
        assert!(QueryString::parse(Some("a=%00")).text("a").is_err());
        assert!(QueryString::parse(Some("left=over")).end().is_err());
    }
}
