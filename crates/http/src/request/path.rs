use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};

use crate::error::ApiError;

/// The last parameter of the path, a row id.
pub(crate) struct Id(pub(crate) i64);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let invalid = || ApiError::invalid("id", "must be a positive integer");
        let params =
            RawPathParams::from_request_parts(parts, state).await.map_err(|_| invalid())?;
        let (_, text) = params.iter().last().ok_or_else(invalid)?;
        row_id(text).map(Self).ok_or_else(invalid)
    }
}

/// The texts in the path, by their names.
pub(crate) struct PathParameters(Vec<(String, String)>);

impl PathParameters {
    /// The parameter of this name, as some other type.
    pub(crate) fn parsed<T, E: std::fmt::Display>(
        &self,
        name: &str,
        parse: impl FnOnce(String) -> Result<T, E>,
    ) -> Result<T, String> {
        let text = self.0.iter().find(|(key, _)| key == name).map(|(_, text)| text.clone());
        parse(text.unwrap_or_default()).map_err(|problem| problem.to_string())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathParameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::invalid("path", "must be percent-encoded UTF-8"))?;
        Ok(Self(params.iter().map(|(key, text)| (key.to_owned(), text.to_owned())).collect()))
    }
}

/// A row id in its only form: digits, no sign, no leading zero.
pub(crate) fn row_id(text: &str) -> Option<i64> {
    if text.starts_with('0') || !text.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// The last parameter of the path, a text.
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::no_route())?;
        let (_, text) = params.iter().last().ok_or_else(ApiError::no_route)?;
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_id_has_one_form() {
        assert_eq!(row_id("1"), Some(1));
        assert_eq!(row_id("9223372036854775807"), Some(i64::MAX));
        for bad in ["", "0", "01", "+1", "-1", "1.0", "9223372036854775808", "x", " 1"] {
            assert_eq!(row_id(bad), None, "{bad:?}");
        }
    }
}
