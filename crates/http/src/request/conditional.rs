use axum::http::{
    HeaderMap, HeaderValue,
    header::{IF_MATCH, IF_NONE_MATCH},
};

use super::row_id;
use crate::error::ApiError;

/// A version as an `ETag` ([RFC 9110 §8.8.3](https://www.rfc-editor.org/rfc/rfc9110#section-8.8.3)).
pub(crate) fn etag(version: i64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\"")).expect("digits in quotes are a header value")
}

/// The version that `If-Match` asks for
/// ([RFC 9110 §13.1.1](https://www.rfc-editor.org/rfc/rfc9110#section-13.1.1)); `None` when it is
/// absent or `*`.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<i64>, ApiError> {
    let mut values = headers.get_all(IF_MATCH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let invalid =
        || ApiError::invalid("If-Match", "must be `*` or one version in quotes, as `ETag` has it");
    let text = value.to_str().map_err(|_| invalid())?.trim();
    if values.next().is_some() {
        return Err(invalid());
    }
    if text == "*" {
        return Ok(None);
    }
    let version = text.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    version.and_then(row_id).map(Some).ok_or_else(invalid)
}

/// Whether the caller has this version already
/// ([RFC 9110 §13.1.2](https://www.rfc-editor.org/rfc/rfc9110#section-13.1.2)). A header that
/// makes no sense matches nothing, so the caller gets the whole answer.
pub(crate) fn is_known(headers: &HeaderMap, version: i64) -> bool {
    headers.get_all(IF_NONE_MATCH).iter().filter_map(|it| it.to_str().ok()).any(|value| {
        value.split(',').map(str::trim).any(|tag| {
            let tag = tag.strip_prefix("W/").unwrap_or(tag);
            tag == "*" || tag.as_bytes() == etag(version).as_bytes()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &axum::http::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|it| (name.clone(), HeaderValue::from_static(it))).collect()
    }

    #[test]
    fn if_match_is_absent_a_star_or_one_version() {
        let read = |values: &[&'static str]| if_match(&headers(&IF_MATCH, values)).ok();
        assert_eq!(read(&[]), Some(None));
        assert_eq!(read(&["*"]), Some(None));
        assert_eq!(read(&["\"7\""]), Some(Some(7)));
        for bad in ["7", "\"7", "\"x\"", "W/\"7\"", "\"7\", \"8\"", "\"\"", "\"-1\"", ""] {
            assert_eq!(read(&[bad]), None, "{bad:?}");
        }
        assert_eq!(read(&["\"7\"", "\"8\""]), None);
    }

    #[test]
    fn if_none_match_knows_a_version_in_a_list_weak_or_not() {
        let known = |value| is_known(&headers(&IF_NONE_MATCH, &[value]), 7);
        for yes in ["\"7\"", "W/\"7\"", "\"6\", \"7\"", "*"] {
            assert!(known(yes), "{yes:?}");
        }
        for no in ["\"6\"", "7", "", "\"77\""] {
            assert!(!known(no), "{no:?}");
        }
    }
}
