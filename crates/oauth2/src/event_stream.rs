//! Streams of server-sent events
//! ([HTML §9.2](https://html.spec.whatwg.org/multipage/server-sent-events.html)).

/// Finds the events of a stream that comes in pieces, each byte looked at once. What it holds on
/// to is no more than it was given.
#[derive(Default)]
pub(crate) struct EventStream {
    /// The line that is not over yet.
    line: Vec<u8>,
    /// The data of the event that is not over yet.
    data: Option<Vec<u8>>,
    /// Whether a line feed would belong to the end of line before it.
    after_return: bool,
    /// Whether the first line is over: only that may begin with a byte order mark.
    began: bool,
}

impl EventStream {
    /// Reads on; `event` gets the data of every event that ends in this piece. An event that the
    /// stream leaves open is none.
    pub(crate) fn read(&mut self, piece: &[u8], mut event: impl FnMut(&[u8])) {
        for byte in piece {
            let after_return = std::mem::replace(&mut self.after_return, *byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => {
                    if let Some(data) = self.end_line() {
                        event(&data);
                    }
                }
                _ => self.line.push(*byte),
            }
        }
    }

    /// Takes the line that is over; the event's data where that ends it.
    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        let mut line = line.as_slice();
        if !std::mem::replace(&mut self.began, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            return self.data.take();
        }
        let value = match line.strip_prefix(b"data") {
            Some([]) => &[],
            Some([b':', value @ ..]) => value.strip_prefix(b" ").unwrap_or(value),
            // Another field, or a comment.
            _ => return None,
        };
        match &mut self.data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            none => *none = Some(value.to_vec()),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let (mut stream, mut events) = (EventStream::default(), Vec::new());
        for piece in pieces {
            stream.read(piece, |data| events.push(String::from_utf8_lossy(data).into_owned()));
        }
        events
    }

    #[test]
    fn events_are_found_however_lines_end() {
        for (stream, expected) in [
            ("data: a\n\n", vec!["a"]),
            ("data:a\r\n\r\n", vec!["a"]),
            ("data: a\r\rdata: b\r\r", vec!["a", "b"]),
            ("\u{feff}data: a\n\n", vec!["a"]),
            (": comment\nid: 1\nevent: message\nretry: 5\ndata: a\n\n", vec!["a"]),
            ("data: a\ndata: b\n\n", vec!["a\nb"]),
            ("data\n\n", vec![""]),
            ("data:\n\ndata:  a\n\n", vec!["", " a"]),
            ("\n\n\ndata: a\n\n\n\n", vec!["a"]),
            ("event: x\n\n", vec![]),
            ("database: a\n\n", vec![]),
            ("data: a", vec![]),
            ("data: a\n", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(events(&[stream.as_bytes()]), expected, "{stream:?}");
        }
    }

    proptest! {
        #[test]
        fn it_makes_no_difference_where_a_stream_is_cut(
            stream in "(data|: ?|\r|\n|id|x){0,40}",
            at in 0_usize..120,
        ) {
            let bytes = stream.as_bytes();
            let (before, after) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(events(&[before, after]), events(&[bytes]));
        }
    }
}
