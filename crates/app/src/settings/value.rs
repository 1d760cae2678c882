//! Single values. Each comes typed from a file, or as a text from the environment.

use std::time::Duration;

use config::{Value, ValueKind};
use serde_json::Map;

/// A text that is not empty.
pub(super) fn text(value: Value) -> Option<String> {
    match value.kind {
        ValueKind::String(text) if !text.trim().is_empty() => Some(text),
        _ => None,
    }
}

/// `true` or `false`.
pub(super) fn boolean(value: Value) -> Option<bool> {
    match value.kind {
        ValueKind::Boolean(it) => Some(it),
        ValueKind::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A whole number that is not negative.
pub(super) fn number(value: Value) -> Option<u64> {
    match value.kind {
        ValueKind::I64(it) => u64::try_from(it).ok(),
        ValueKind::U64(it) => Some(it),
        ValueKind::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A list of texts; from the environment one text with commas between them.
pub(super) fn texts(value: Value) -> Option<Vec<String>> {
    match value.kind {
        ValueKind::Array(items) => items.into_iter().map(text).collect(),
        ValueKind::String(list) if list.trim().is_empty() => Some(Vec::new()),
        ValueKind::String(list) => list
            .split(',')
            .map(|it| (!it.trim().is_empty()).then(|| it.trim().to_owned()))
            .collect(),
        _ => None,
    }
}

/// A length of time: `90s`, `10m`, `1h30m`, or a whole number, which is seconds.
pub(super) fn duration(value: Value) -> Option<Duration> {
    match value.kind {
        ValueKind::String(text) => parse_duration(text.trim()),
        _ => number(value).map(Duration::from_secs),
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|it: char| !it.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|it: char| it.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        let part = number.parse::<u64>().ok()?.checked_mul(milliseconds)?;
        total = total.checked_add(Duration::from_millis(part))?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// Any value, as JSON; `None` for what JSON cannot say.
pub(super) fn json(value: Value) -> Option<serde_json::Value> {
    Some(match value.kind {
        ValueKind::Nil => serde_json::Value::Null,
        ValueKind::Boolean(it) => it.into(),
        ValueKind::I64(it) => it.into(),
        ValueKind::U64(it) => it.into(),
        ValueKind::I128(it) => i64::try_from(it).ok()?.into(),
        ValueKind::U128(it) => u64::try_from(it).ok()?.into(),
        ValueKind::Float(it) => serde_json::Number::from_f64(it)?.into(),
        ValueKind::String(it) => it.into(),
        ValueKind::Array(items) => items.into_iter().map(json).collect::<Option<Vec<_>>>()?.into(),
        ValueKind::Table(table) => table
            .into_iter()
            .map(|(key, value)| Some((key, json(value)?)))
            .collect::<Option<Map<_, _>>>()?
            .into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_a_number_of_seconds_or_numbers_with_units() {
        for (text, seconds) in
            [("0", 0), ("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172_800)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("1s500ms"), Some(Duration::from_millis(1500)));
        for wrong in ["", "s", "10 m", "10x", "-1s", "1.5h", "m10", "10m5", "99999999999999999999s"]
        {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
