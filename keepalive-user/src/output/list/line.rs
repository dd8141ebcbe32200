//! Text written byte by byte. A listing may have a hundred thousand lines, and formatting them with
//! `fmt` takes longer than the kernel takes to dump the sockets.

use std::{io::Write, net::IpAddr};

use crate::core::event::Endpoint;

/// A buffer of lines.
#[derive(Default)]
pub struct Text(Vec<u8>);

impl Text {
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn push(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    pub fn number(&mut self, mut number: u64) {
        // A u64 has at most 20 digits.
        let mut digits = [0; 20];
        let mut start = digits.len();
        loop {
            start -= 1;
            digits[start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.0.extend_from_slice(&digits[start..]);
    }

    /// Three digits.
    pub fn thousandths(&mut self, number: u64) {
        for power in [100, 10, 1] {
            self.0.push(b'0' + (number / power % 10) as u8);
        }
    }

    /// `10.0.0.1:22`, `[::1]:22`.
    pub fn endpoint(&mut self, endpoint: &Endpoint) {
        match endpoint.address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets().map(u64::from);
                self.number(a);
                for octet in [b, c, d] {
                    self.push(".");
                    self.number(octet);
                }
            }
            // Writing to a vector cannot fail.
            IpAddr::V6(address) => {
                let _ = write!(self.0, "[{address}]");
            }
        }
        self.push(":");
        self.number(endpoint.port.into());
    }

    /// Spaces up to `width` bytes after `start`.
    pub fn pad(&mut self, start: usize, width: usize) {
        let end = self.0.len().max(start + width);
        self.0.resize(end, b' ');
    }

    /// Writes what `fill` writes, right-aligned in a column.
    pub fn right(&mut self, width: usize, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        fill(self);
        let used = self.0.len() - start;
        if used < width {
            self.pad(start, width);
            self.0[start..].rotate_right(width - used);
        }
    }
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made(make: impl FnOnce(&mut Text)) -> String {
        let mut text = Text::default();
        make(&mut text);
        String::from_utf8(text.0).unwrap()
    }

    proptest! {
        #[test]
        fn equals_fmt(number: u64, width in 0usize..30, address: IpAddr, port: u16) {
            prop_assert_eq!(made(|text| text.number(number)), number.to_string());
            prop_assert_eq!(
                made(|text| text.right(width, |text| text.number(number))),
                format!("{number:>width$}")
            );
            prop_assert_eq!(
                made(|text| text.thousandths(number % 1000)),
                format!("{:03}", number % 1000)
            );
            let endpoint = Endpoint { address, port };
            prop_assert_eq!(made(|text| text.endpoint(&endpoint)), endpoint.to_string());
        }
    }
}
