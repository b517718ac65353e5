//! Line ends of text files as Python's text mode reads them: `\r\n` and `\r` are `\n`. What a file of rows holds in a string is data,
//! and stays as it is.

/// A text with `\n` for every line end, and where its bytes were.
pub(crate) struct Newlines {
    pub text: String,
    /// Bytes of the result before which a `\r` was left out, in order.
    left_out: Vec<u64>,
}

impl Newlines {
    pub fn of(text: &str) -> Self {
        let (mut lines, mut left_out) = (String::with_capacity(text.len()), Vec::new());
        let mut rest = text;
        while let Some(at) = rest.find('\r') {
            lines.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if rest.starts_with('\n') {
                left_out.push(lines.len() as u64);
            } else {
                lines.push('\n');
            }
        }
        lines.push_str(rest);
        Newlines { text: lines, left_out }
    }

    /// The byte of the original that byte `at` of the result was; of a line end, its first.
    pub fn original(&self, at: u64) -> u64 {
        at + self.left_out.partition_point(|&before| before < at) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_end_is_the_one_that_python_reads() {
        for (text, read) in [
            ("a\r\nb\rc\nd", "a\nb\nc\nd"),
            ("\r\n\r\n", "\n\n"),
            ("\r\r\n\n\r", "\n\n\n\n"),
            ("é\r\n日\r", "é\n日\n"),
            ("none", "none"),
            ("", ""),
        ] {
            assert_eq!(Newlines::of(text).text, read, "{text:?}");
        }
    }

    #[test]
    fn a_byte_is_found_where_it_was() {
        let lines = Newlines::of("ab\r\nc\rd\r\n");
        assert_eq!(lines.text, "ab\nc\nd\n");
        // a, b, the line end, its end, the next one, and so on; the last is the end of the text.
        let original: Vec<u64> = (0..=7).map(|at| lines.original(at)).collect();
        assert_eq!(original, [0, 1, 2, 4, 5, 6, 7, 9]);
    }
}
