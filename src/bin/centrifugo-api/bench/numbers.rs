//! Formats numbers with three significant digits; the fourth is noise.

/// A time in the unit that suits it.
pub(super) fn time(micros: f64) -> String {
    match micros {
        micros if micros < 1000.0 => format!("{} µs", digits(micros)),
        micros if micros < 1e6 => format!("{} ms", digits(micros / 1e3)),
        micros => format!("{} s", digits(micros / 1e6)),
    }
}

/// A number of which two digits may be after the point.
pub(super) fn digits(number: f64) -> String {
    match number {
        number if number < 10.0 => format!("{number:.2}"),
        number if number < 100.0 => format!("{number:.1}"),
        number => rounded(number),
    }
}

/// A whole number.
pub(super) fn rounded(number: f64) -> String {
    let digits = number.abs().max(1.0).log10().floor();
    let unit = 10_f64.powf((digits - 2.0).max(0.0));
    thousands(&format!("{:.0}", (number / unit).round() * unit))
}

/// A number in at most six characters, up to a thousand millions.
pub(super) fn short(number: f64) -> String {
    match number {
        number if number < 10_000.0 => rounded(number),
        number if number < 1e6 => format!("{}k", digits(number / 1e3)),
        number => format!("{}M", digits(number / 1e6)),
    }
}

/// A number that is exact.
pub(super) fn whole(number: usize) -> String {
    thousands(&number.to_string())
}

pub(super) fn count(number: usize, what: &str) -> String {
    format!("{} {what}{}", whole(number), if number == 1 { "" } else { "s" })
}

fn thousands(digits: &str) -> String {
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_significant_digits() {
        for (number, text) in [(0.4, "0"), (7.0, "7"), (123.4, "123"), (4812.0, "4,810"), (999_999.0, "1,000,000")] {
            assert_eq!(rounded(number), text);
        }
        for (micros, text) in
            [(0.274, "0.27 µs"), (98.44, "98.4 µs"), (144.2, "144 µs"), (1234.0, "1.23 ms"), (2e6, "2.00 s")]
        {
            assert_eq!(time(micros), text);
        }
        for (number, text) in [(9430.0, "9,430"), (58_400.0, "58.4k"), (309_000.0, "309k"), (1_234_000.0, "1.23M")] {
            assert_eq!(short(number), text);
        }
    }
}
