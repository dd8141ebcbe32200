//! Sentences without their numbers: a million events share a few hundred sentences.

use std::sync::Arc;

use rustc_hash::FxHashMap;

/// Placeholder of a number. No sentence of an event contains it.
pub const NUMBER: char = '\u{1}';
/// Limit of the number of sentences; events have a few hundred.
const SENTENCES: usize = 1 << 12;
/// The sentence of events above the limit.
const OTHER: &str = "(not kept: too many different events)";
/// A number with more digits stays in the sentence: a JSON number would lose precision.
const DIGITS: usize = 15;

/// A sentence, and the numbers in its placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phrase {
    pub sentence: u32,
    pub numbers: Box<[u64]>,
}

/// All sentences so far.
#[derive(Clone, Debug, Default)]
pub struct Sentences {
    numbers: FxHashMap<Arc<str>, u32>,
    pub all: Vec<Arc<str>>,
}

impl Sentences {
    /// Replaces the numbers by placeholders. Leading zeros stay in the sentence.
    pub fn learn(&mut self, text: &str) -> Phrase {
        let (mut sentence, mut numbers) = (String::with_capacity(text.len()), Vec::new());
        let mut rest = text;
        while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
            let digits = &rest[start..];
            let length = digits
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(digits.len());
            let zeros = digits[..length - 1]
                .chars()
                .take_while(|c| *c == '0')
                .count();
            sentence.push_str(&rest[..start + zeros]);
            match digits[zeros..length].parse() {
                Ok(number) if length - zeros <= DIGITS => {
                    sentence.push(NUMBER);
                    numbers.push(number);
                }
                _ => sentence.push_str(&digits[zeros..length]),
            }
            rest = &digits[length..];
        }
        sentence.push_str(rest);
        Phrase {
            sentence: self.number(&sentence),
            numbers: numbers.into(),
        }
    }

    fn number(&mut self, sentence: &str) -> u32 {
        if let Some(number) = self.numbers.get(sentence) {
            return *number;
        }
        if self.all.len() >= SENTENCES && sentence != OTHER {
            return self.number(OTHER);
        }
        let number = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        let shared: Arc<str> = sentence.into();
        self.all.push(Arc::clone(&shared));
        self.numbers.insert(shared, number);
        number
    }

    /// The sentence with its numbers.
    pub fn text(&self, phrase: &Phrase) -> String {
        let sentence = self.all.get(phrase.sentence as usize);
        let mut numbers = phrase.numbers.iter();
        let mut text = String::new();
        for character in sentence.map_or("", |it| it).chars() {
            match (character, numbers.len()) {
                (NUMBER, 1..) => text += &numbers.next().map_or(String::new(), u64::to_string),
                _ => text.push(character),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_bounded() {
        let mut sentences = Sentences::default();
        let words = |number: u32| -> String {
            number
                .to_string()
                .bytes()
                .map(|it| char::from(it + 32))
                .collect()
        };
        let phrases: Vec<Phrase> = (0..10_000).map(|it| sentences.learn(&words(it))).collect();
        assert_eq!(sentences.all.len(), SENTENCES + 1);
        assert_eq!(sentences.text(&phrases[0]), words(0));
        assert_eq!(sentences.text(&phrases[9_999]), OTHER);
    }

    #[test]
    fn a_sentence_is_restored() {
        let mut sentences = Sentences::default();
        for text in [
            "",
            "keepalive switched off",
            "probe 1/9 sent, no segment from the peer for 1.5 s, next in 75 s, dead at 10:05:00 unless answered",
            "007 and 0, 00 and 123456789012345678901234567890",
            "1",
        ] {
            let phrase = sentences.learn(text);
            assert_eq!(sentences.text(&phrase), text);
        }
        let [one, other] =
            ["probe 1/9 sent", "probe 2/9 sent"].map(|text| sentences.learn(text).sentence);
        assert_eq!(one, other);
    }
}
