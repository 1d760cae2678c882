//! Django's `dumpdata`: one JSON array of rows, read row by row in constant memory.

use std::{fmt, io::Read};

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Value, error::Category};

/// One element of the array.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Element {
    /// A row of a model that is wanted.
    Row {
        /// The model, for example `sentry.identity`.
        model: String,
        /// The row's id there, as it is written.
        pk: Value,
        /// Its columns, as they are written.
        fields: Value,
    },
    /// A row of another model.
    Unwanted(String),
    /// No row at all: what it lacks.
    NoRow(&'static str),
}

/// Why reading ended before the array did.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The file cannot be read.
    #[error("cannot be read")]
    Unreadable(#[source] std::io::Error),
    /// What is there is not the JSON of a dump. Carries no parser's message: that could quote
    /// what it read.
    #[error("{problem} at line {line}, column {column} (after {rows} rows)")]
    Malformed {
        /// What is wrong.
        problem: &'static str,
        /// Where, counted from 1.
        line: usize,
        /// Where, counted from 1.
        column: usize,
        /// How many elements were read before.
        rows: u64,
    },
}

/// Reads an array element by element. `each` is given the index of every element, from 0, and
/// answers whether to go on.
///
/// # Errors
///
/// [`Broken`]; the elements before it were passed on.
pub(super) fn read(
    from: impl Read,
    wanted: impl Fn(&str) -> bool,
    mut each: impl FnMut(u64, Element) -> bool,
) -> Result<(), Broken> {
    let mut json = serde_json::Deserializer::from_reader(from);
    let mut state = State { rows: 0, stopped: false };
    let array = Array { wanted: &wanted, each: &mut each, state: &mut state };
    let read = (&mut json).deserialize_any(array).and_then(|()| json.end());
    match read {
        Err(_) if state.stopped => Ok(()),
        Err(error) if error.classify() == Category::Io => Err(Broken::Unreadable(error.into())),
        Err(error) => Err(Broken::Malformed {
            problem: match error.classify() {
                Category::Eof => "the file ends early",
                Category::Data => "expected the JSON array that Django's dumpdata writes",
                _ => "the file is not JSON",
            },
            line: error.line(),
            column: error.column(),
            rows: state.rows,
        }),
        Ok(()) => Ok(()),
    }
}

struct State {
    rows: u64,
    stopped: bool,
}

struct Array<'a> {
    wanted: &'a dyn Fn(&str) -> bool,
    each: &'a mut dyn FnMut(u64, Element) -> bool,
    state: &'a mut State,
}

impl<'de> Visitor<'de> for Array<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(element) = array.next_element_seed(Row { wanted: self.wanted })? {
            let index = self.state.rows;
            self.state.rows += 1;
            if !(self.each)(index, element) {
                self.state.stopped = true;
                return Err(A::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

struct Row<'a> {
    wanted: &'a dyn Fn(&str) -> bool,
}

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = Element;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Element, D::Error> {
        json.deserialize_any(self)
    }
}

/// What stands where a row should stand.
const NO_ROW: Element = Element::NoRow("expected a row: an object with model, pk and fields");

impl<'de> Visitor<'de> for Row<'_> {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Element, A::Error> {
        let (mut model, mut pk, mut fields) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "model" => model = Some(map.next_value::<Value>()?),
                "pk" => pk = Some(map.next_value::<Value>()?),
                "fields" => {
                    let known = model.as_ref().and_then(Value::as_str);
                    if known.is_some_and(|it| !(self.wanted)(it)) {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        fields = Some(map.next_value::<Value>()?);
                    }
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let Some(Value::String(model)) = model else {
            return Ok(Element::NoRow("the row names no model"));
        };
        if !(self.wanted)(&model) {
            return Ok(Element::Unwanted(model));
        }
        let (pk, fields) = (pk.unwrap_or_default(), fields.unwrap_or_default());
        Ok(Element::Row { model, pk, fields })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Element, A::Error> {
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(NO_ROW)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Element, E> {
        Ok(NO_ROW)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Element, E> {
        Ok(NO_ROW)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Element, E> {
        Ok(NO_ROW)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Element, E> {
        Ok(NO_ROW)
    }

    fn visit_str<E>(self, _: &str) -> Result<Element, E> {
        Ok(NO_ROW)
    }

    fn visit_unit<E>(self) -> Result<Element, E> {
        Ok(NO_ROW)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn all(text: &[u8]) -> (Vec<(u64, Element)>, Result<(), Broken>) {
        let mut rows = Vec::new();
        let read = read(
            text,
            |model| model == "sentry.identity",
            |index, element| {
                rows.push((index, element));
                true
            },
        );
        (rows, read)
    }

    #[test]
    fn rows_come_in_their_order_whatever_the_order_of_their_keys() {
        let text = br#"[{"fields": {"a": 1}, "pk": 7, "model": "sentry.identity", "x": [{}]},
            {"model": "auth.user", "fields": {"password": "canary"}, "pk": 1}, 5, "text", null,
            true, 1.5, [1, [2]], {"pk": 1}, {"model": 3},
            {"model": "sentry.identity"}]"#;
        let (rows, read) = all(text);
        assert!(read.is_ok());
        let row =
            |pk: Value, fields: Value| Element::Row { model: "sentry.identity".into(), pk, fields };
        assert_eq!(rows[0], (0, row(json!(7), json!({"a": 1}))));
        assert_eq!(rows[1], (1, Element::Unwanted("auth.user".into())));
        for (index, row) in rows.iter().enumerate().take(8).skip(2) {
            assert_eq!(*row, (index as u64, NO_ROW));
        }
        assert!(matches!(rows[8], (8, Element::NoRow("the row names no model"))));
        assert!(matches!(rows[9], (9, Element::NoRow("the row names no model"))));
        assert_eq!(rows[10], (10, row(Value::Null, Value::Null)));
    }

    #[test]
    fn what_is_no_dump_is_told_by_its_place_and_not_quoted() {
        for (text, expected) in [
            ("", "the file ends early at line 1, column 0 (after 0 rows)"),
            ("\"canary\"", "expected the JSON array that Django's dumpdata writes at line 1"),
            ("{\"canary\": 1}", "expected the JSON array that Django's dumpdata writes at line 1"),
            ("[1,\n canary]", "the file is not JSON at line 2, column 2 (after 1 rows)"),
            ("[1, 2", "the file ends early at line 1, column 5 (after 2 rows)"),
            ("[1] canary", "the file is not JSON at line 1, column 5 (after 1 rows)"),
            ("[1e999]", "the file is not JSON at line 1"),
        ] {
            let (_, read) = all(text.as_bytes());
            let told = read.unwrap_err().to_string();
            assert!(told.starts_with(expected), "{text}: {told}");
            assert!(!told.contains("canary"));
        }
    }

    #[test]
    fn reading_stops_when_nobody_wants_more() {
        let mut count = 0;
        let stopped = read(
            &b"[1, 2, 3, broken"[..],
            |_| true,
            |_, _| {
                count += 1;
                count < 2
            },
        );
        assert!(stopped.is_ok());
        assert_eq!(count, 2);
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{0,6}", inner, 0..4)
                    .prop_map(|it| Value::Object(it.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = all(&bytes);
        }

        #[test]
        fn every_element_is_passed_on_with_its_index(values in prop::collection::vec(json_value(), 0..20)) {
            let (rows, read) = all(&serde_json::to_vec(&values).unwrap());
            prop_assert!(read.is_ok());
            let indices: Vec<_> = rows.iter().map(|(index, _)| *index).collect();
            prop_assert_eq!(indices, (0..values.len() as u64).collect::<Vec<_>>());
        }

        #[test]
        fn of_a_dump_that_is_cut_off_the_whole_rows_are_passed_on(
            count in 1..8_usize, cut in any::<prop::sample::Index>()
        ) {
            let row = json!({"model": "sentry.identity", "pk": 1, "fields": {"a": "]},{"}});
            let text = serde_json::to_string(&vec![row.clone(); count]).unwrap();
            let cut = cut.index(text.len() - 1) + 1;
            let (rows, read) = all(&text.as_bytes()[..cut]);
            prop_assert_eq!(read.is_ok(), cut == text.len());
            let whole = (cut - 1) / (row.to_string().len() + 1);
            prop_assert!(rows.len() == whole || rows.len() == whole + 1, "{} of {}", rows.len(), whole);
        }
    }
}
