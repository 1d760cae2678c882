use std::fmt;

use serde::{Deserialize, Deserializer, de};
use symbolon_domain::ids::InvalidId;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, OneOfBuilder, Schema, Type},
    },
};

use crate::error::ApiError;

/// An id of the calling product: a text, or an integer that is taken as its decimal text.
pub(crate) struct ProductId(String);

impl ProductId {
    /// The id as a text, not checked.
    pub(crate) fn into_text(self) -> String {
        self.0
    }

    /// The checked id.
    pub(crate) fn check<T>(
        self,
        name: &str,
        new: impl FnOnce(String) -> Result<T, InvalidId>,
    ) -> Result<T, ApiError> {
        new(self.0).map_err(|problem| ApiError::invalid(name, problem))
    }
}

impl<'de> Deserialize<'de> for ProductId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = ProductId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text of 1 to 255 characters or an integer")
            }

            fn visit_str<E>(self, text: &str) -> Result<ProductId, E> {
                Ok(ProductId(text.to_owned()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<ProductId, E> {
                Ok(ProductId(number.to_string()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<ProductId, E> {
                Ok(ProductId(number.to_string()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl PartialSchema for ProductId {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(255));
        let integer = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .description(Some("Taken as its decimal text."));
        OneOfBuilder::new().item(text).item(integer).into()
    }
}

impl ToSchema for ProductId {}

/// Scopes as [RFC 6749 §3.3](https://www.rfc-editor.org/rfc/rfc6749#section-3.3) has them: they
/// are sent separated by spaces, so none may hold one.
pub(crate) fn check_scopes(scopes: &[String]) -> Result<(), ApiError> {
    if scopes.len() > 100 {
        return Err(ApiError::invalid("scopes", "must be at most 100"));
    }
    for (at, scope) in scopes.iter().enumerate() {
        let good = (1..=255).contains(&scope.len())
            && scope.bytes().all(|it| matches!(it, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
        if !good {
            let problem = "must be 1 to 255 visible ASCII characters without `\"` and `\\`";
            return Err(ApiError::invalid(&format!("scopes[{at}]"), problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_the_product_is_a_text_or_an_integer() {
        let read = |json: &str| serde_json::from_str::<ProductId>(json).ok().map(|it| it.0);
        assert_eq!(read("\"u-1\"").as_deref(), Some("u-1"));
        assert_eq!(read("42").as_deref(), Some("42"));
        assert_eq!(read("-7").as_deref(), Some("-7"));
        assert_eq!(read("18446744073709551615").as_deref(), Some("18446744073709551615"));
        for bad in ["1.5", "1e3", "true", "null", "[]", "{}", "18446744073709551616"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_scope_is_one_word() {
        assert!(check_scopes(&["openid".into(), "https://x.example/y".into()]).is_ok());
        for bad in ["", "a b", "a\"", "a\\", "é", "a\n"] {
            assert!(check_scopes(&[bad.into()]).is_err(), "{bad:?}");
        }
    }
}
