//! Numbers as people read them.

use dapbox_results::statistics::{Exact, Quantile};
use dapbox_support::format::count;

/// The minus sign of numbers on pages.
pub const MINUS: &str = "−";

/// An exact number with thousands separators: `−12,345`.
pub fn exact(number: Exact) -> String {
    let digits = count(number.magnitude);
    if number.is_negative { format!("{MINUS}{digits}") } else { digits }
}

/// A whole number of a floating-point value, with thousands separators.
pub fn whole(number: f64) -> String {
    let rounded = number.abs().round();
    if rounded >= 1e15 {
        return scientific(number);
    }
    sign(number, rounded) + &count(rounded as u64)
}

/// A number with three or four significant digits: `0.0123`, `1.42`, `1,234`.
pub fn brief(number: f64) -> String {
    let size = number.abs();
    match size {
        _ if number.is_nan() => "–".to_owned(),
        0.0 => "0".to_owned(),
        s if s >= 999.5 => whole(number),
        s if s.fract() == 0.0 => whole(number),
        s if s >= 99.95 => trimmed(number, 1),
        s if s >= 9.995 => trimmed(number, 1),
        s if s >= 0.9995 => trimmed(number, 2),
        s if s >= 0.0001 => trimmed(number, 2 + (-s.log10()).ceil() as usize),
        _ => scientific(number),
    }
}

/// A number with the fewest digits for an axis: `0`, `2.5`, `12k`, `3M`, `4×10¹⁵`.
///
/// All numbers of an axis have the unit of the `largest`.
pub fn compact(number: f64, largest: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "bn"), (1e6, "M"), (1e3, "k")];
    let size = largest.abs();
    if number == 0.0 {
        return "0".to_owned();
    }
    if size >= 1e15 {
        return scientific(number);
    }
    if size < 10_000.0 {
        let size = number.abs();
        let text = if size.fract().abs() < 1e-9 || size >= 1000.0 { whole(number) } else { brief(number) };
        return if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    }
    let (unit, name) = UNITS.into_iter().find(|(unit, _)| size >= *unit).unwrap_or((1.0, ""));
    let text = trimmed(number / unit, if size / unit >= 100.0 { 0 } else { 1 });
    text.strip_suffix(".0").unwrap_or(&text).to_owned() + name
}

/// A percentage: `12.3 %`.
pub fn percent(share: f64) -> String {
    let size = share.abs() * 100.0;
    let digits = match size {
        s if s == 0.0 || s >= 99.95 => 0,
        s if s >= 0.095 => 1,
        s if s >= 0.0095 => 2,
        _ => 3,
    };
    sign(share, size) + &format!("{size:.digits$} %")
}

/// A difference of shares in percentage points: `12.3 pp`.
pub fn points(difference: f64) -> String {
    percent(difference).replace('%', "pp")
}

/// A change with its sign: `+12`, `−3`, `±0`.
pub fn signed(number: f64, write: impl Fn(f64) -> String) -> String {
    match write(number) {
        text if number > 0.0 && !is_zero(&text) => format!("+{text}"),
        text if is_zero(&text) => format!("±{}", text.trim_start_matches(MINUS)),
        text => text,
    }
}

fn is_zero(text: &str) -> bool {
    !text.chars().any(|c| c.is_ascii_digit() && c != '0')
}

/// A quantile: `12.3`, `below 5`, `above 40`.
pub fn quantile(quantile: Quantile) -> String {
    match quantile {
        Quantile::At(value) => brief(value),
        Quantile::Below(value) => format!("below {}", brief(value)),
        Quantile::Above(value) => format!("above {}", brief(value)),
    }
}

/// The span of a bin: `5–10`, `below 0`, `100 and more`.
pub fn bin(low: f64, high: f64) -> String {
    match (low.is_finite(), high.is_finite()) {
        (true, true) => format!("{}–{}", edge(low), edge(high)),
        (false, true) => format!("below {}", edge(high)),
        (true, false) => format!("{} and more", edge(low)),
        (false, false) => "all".to_owned(),
    }
}

/// An edge of a bin, as the operator wrote it.
pub fn edge(edge: f64) -> String {
    let text = if edge.fract() == 0.0 && edge.abs() < 1e15 { whole(edge) } else { format!("{edge}") };
    text.replace('-', MINUS)
}

fn sign(number: f64, shown: f64) -> String {
    if number < 0.0 && shown > 0.0 { MINUS.to_owned() } else { String::new() }
}

fn trimmed(number: f64, digits: usize) -> String {
    sign(number, number.abs()) + &format!("{:.digits$}", number.abs())
}

/// `1.2×10¹⁵`.
fn scientific(number: f64) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let text = format!("{:.2e}", number.abs());
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    let raised: String = exponent
        .chars()
        .map(|c| c.to_digit(10).and_then(|digit| DIGITS.get(digit as usize)).copied().unwrap_or('⁻'))
        .collect();
    sign(number, number.abs()) + &format!("{mantissa}×10{raised}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_matter() {
        let shown = [0.0, 0.01234, 1.4159, 12.345, 123.45, 1234.5, -7.0, 1e20, 1e-9].map(brief);
        assert_eq!(shown, ["0", "0.0123", "1.42", "12.3", "123.5", "1,235", "−7", "1×10²⁰", "1×10⁻⁹"]);
        let shown =
            [0.0, 2.5, 900.0, 1500.0, 12_000.0, 250_000.0, 1.5e6, -2e9, 4e15].map(|number| compact(number, number));
        assert_eq!(shown, ["0", "2.5", "900", "1,500", "12k", "250k", "1.5M", "−2bn", "4×10¹⁵"]);
        assert_eq!([500.0, 5_000.0, 10_000.0].map(|number| compact(number, 20_000.0)), ["0.5k", "5k", "10k"]);
        let shown = [0.0, 0.5, 0.00123, 0.0001234, 1.0, -0.07].map(percent);
        assert_eq!(shown, ["0 %", "50.0 %", "0.1 %", "0.01 %", "100 %", "−7.0 %"]);
        assert_eq!([3.0, -3.0, 0.0].map(|n| signed(n, brief)), ["+3", "−3", "±0"]);
        assert_eq!(exact(Exact::from(-12_345_i128)), "−12,345");
    }
}
