//! Integer money. Minor units in `i64`, products in `i128`, one rounding rule, never a float.

use std::fmt;

/// Money could not be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The result does not fit 64 bits of minor units.
    #[error("amount is larger than 64 bits of minor units can hold")]
    Overflow,
    /// A share of nothing was asked for.
    #[error("cannot take a share of a whole that is zero or negative")]
    EmptyWhole,
    /// Not three ASCII letters.
    #[error("`{0}` is not a three-letter currency code")]
    InvalidCurrency(String),
    /// Not between 0 and 10 000.
    #[error("{0} basis points is not between 0 and 10000")]
    InvalidBasisPoints(i64),
}

/// A currency code: three lower-case ASCII letters (ISO 4217, written as Stripe writes it).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

impl Currency {
    /// US dollars: what seed S0 means where it names no currency.
    pub const USD: Self = Self(*b"usd");

    /// Accepts either case. Codes that ISO 4217 does not list are accepted, because providers add
    /// currencies before lists do; [`Self::is_listed`] tells.
    ///
    /// # Errors
    /// [`MoneyError::InvalidCurrency`] for anything but three ASCII letters.
    pub fn parse(code: &str) -> Result<Self, MoneyError> {
        match code.as_bytes() {
            [a, b, c] if code.bytes().all(|byte| byte.is_ascii_alphabetic()) => {
                Ok(Self([a.to_ascii_lowercase(), b.to_ascii_lowercase(), c.to_ascii_lowercase()]))
            }
            _ => Err(MoneyError::InvalidCurrency(code.chars().take(16).collect())),
        }
    }

    /// The code, lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // The constructor admits ASCII only, so this never falls back.
        std::str::from_utf8(&self.0).unwrap_or("???")
    }

    /// Whether ISO 4217 lists the code.
    #[must_use]
    pub fn is_listed(self) -> bool {
        self.iso().is_some()
    }

    /// Digits after the decimal point when shown to people (ISO 4217; 2 where not listed).
    #[must_use]
    pub fn exponent(self) -> u32 {
        self.iso().and_then(iso_currency::Currency::exponent).map_or(2, u32::from)
    }

    fn iso(self) -> Option<iso_currency::Currency> {
        iso_currency::Currency::from_code(&self.as_str().to_ascii_uppercase())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// An amount of one currency, in minor units (cents for USD, yen for JPY, fils for KWD).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Money {
    /// Minor units.
    pub minor: i64,
    /// Currency of `minor`.
    pub currency: Currency,
}

/// For people: major units with the currency's own number of digits, such as `12.30 USD`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.currency.as_str().to_ascii_uppercase();
        let sign = if self.minor < 0 { "-" } else { "" };
        let digits = self.minor.unsigned_abs();
        match self.currency.exponent() {
            0 => write!(f, "{sign}{digits} {code}"),
            exponent => {
                let scale = 10_u64.saturating_pow(exponent);
                let (major, minor) = (digits.div_euclid(scale), digits.rem_euclid(scale));
                write!(f, "{sign}{major}.{minor:0width$} {code}", width = exponent as usize)
            }
        }
    }
}

/// A rate in hundredths of a percent, 0 to 10 000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct BasisPoints(u16);

impl BasisPoints {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// # Errors
    /// [`MoneyError::InvalidBasisPoints`] outside 0 to 10 000.
    pub fn new(value: i64) -> Result<Self, MoneyError> {
        u16::try_from(value)
            .ok()
            .filter(|&bps| bps <= 10_000)
            .map(Self)
            .ok_or(MoneyError::InvalidBasisPoints(value))
    }

    /// The rate, 0 to 10 000.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// This share of `minor`, rounded half up on the magnitude: 250 of 1999 is 50 (seed S2).
    ///
    /// # Errors
    /// [`MoneyError::Overflow`] never happens for a rate of at most 10 000, but is not hidden.
    pub fn of(self, minor: i64) -> Result<i64, MoneyError> {
        share(minor, i64::from(self.0), 10_000)
    }
}

impl<'de> serde::Deserialize<'de> for BasisPoints {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(i64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// `amount × part ÷ whole`, rounded half up on the magnitude: the one rounding rule of the product
/// (`rulings.md` 24).
///
/// # Errors
/// [`MoneyError::EmptyWhole`] when `whole` is not positive, [`MoneyError::Overflow`] when the result
/// does not fit.
pub fn share(amount: i64, part: i64, whole: i64) -> Result<i64, MoneyError> {
    // Two 64-bit factors always fit 127 bits.
    divide(i128::from(amount).checked_mul(i128::from(part)).ok_or(MoneyError::Overflow)?, whole)
}

/// `product ÷ whole`, rounded half up on the magnitude: for sums of products that are rounded once.
///
/// # Errors
/// As [`share`].
pub fn divide(product: i128, whole: i64) -> Result<i64, MoneyError> {
    if whole <= 0 {
        return Err(MoneyError::EmptyWhole);
    }
    // Doubling the remainder of a 64-bit divisor always fits.
    let whole = i128::from(whole);
    let magnitude = product.checked_abs().ok_or(MoneyError::Overflow)?;
    let doubled = magnitude.rem_euclid(whole).checked_mul(2).ok_or(MoneyError::Overflow)?;
    let up = i128::from(doubled >= whole);
    let rounded = magnitude.div_euclid(whole).checked_add(up).ok_or(MoneyError::Overflow)?;
    let signed = if product < 0 { rounded.checked_neg().ok_or(MoneyError::Overflow)? } else { rounded };
    i64::try_from(signed).map_err(|_| MoneyError::Overflow)
}

/// `a + b`.
///
/// # Errors
/// [`MoneyError::Overflow`] when the sum does not fit.
pub fn add(a: i64, b: i64) -> Result<i64, MoneyError> {
    a.checked_add(b).ok_or(MoneyError::Overflow)
}

/// `a − b`.
///
/// # Errors
/// [`MoneyError::Overflow`] when the difference does not fit.
pub fn sub(a: i64, b: i64) -> Result<i64, MoneyError> {
    a.checked_sub(b).ok_or(MoneyError::Overflow)
}

/// The sum of all `amounts`.
///
/// # Errors
/// [`MoneyError::Overflow`] when it does not fit.
pub fn sum(amounts: impl IntoIterator<Item = i64>) -> Result<i64, MoneyError> {
    amounts.into_iter().try_fold(0, add)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_the_payments_seed_rounds_up() {
        assert_eq!(BasisPoints::new(250).unwrap().of(1999), Ok(50));
    }

    #[test]
    fn halves_round_away_from_zero() {
        assert_eq!(share(1, 1, 2), Ok(1));
        assert_eq!(share(-1, 1, 2), Ok(-1));
        assert_eq!(share(1, 1, 3), Ok(0));
        assert_eq!(share(5, 3, 10), Ok(2));
    }

    #[test]
    fn limits_are_errors_and_never_wrap() {
        assert_eq!(share(i64::MAX, 1, 1), Ok(i64::MAX));
        assert_eq!(share(i64::MAX, 2, 1), Err(MoneyError::Overflow));
        assert_eq!(share(1, 1, 0), Err(MoneyError::EmptyWhole));
        assert_eq!(share(i64::MIN, i64::MIN, 1), Err(MoneyError::Overflow));
        assert_eq!(add(i64::MAX, 1), Err(MoneyError::Overflow));
        assert!(BasisPoints::new(10_001).is_err());
        assert!(BasisPoints::new(-1).is_err());
    }

    #[test]
    fn amounts_show_the_digits_of_their_currency() {
        let show = |minor, code| Money { minor, currency: Currency::parse(code).unwrap() }.to_string();
        assert_eq!(show(1230, "usd"), "12.30 USD");
        assert_eq!(show(-5, "USD"), "-0.05 USD");
        assert_eq!(show(500, "jpy"), "500 JPY");
        assert_eq!(show(12_345, "kwd"), "12.345 KWD");
    }

    proptest! {
        #[test]
        fn a_share_of_a_whole_never_exceeds_it(amount in 0..i64::MAX, whole in 1..i64::MAX, part in 0..i64::MAX) {
            let part = part % whole;
            let taken = share(amount, part, whole).unwrap();
            prop_assert!(taken >= 0 && taken <= amount);
        }

        #[test]
        fn the_error_of_a_share_is_at_most_half(amount in -1_000_000_000_i64..1_000_000_000, part in 0_i64..10_000) {
            let exact_times_whole = i128::from(amount) * i128::from(part);
            let got = i128::from(share(amount, part, 10_000).unwrap()) * 10_000;
            prop_assert!((exact_times_whole - got).abs() * 2 <= 10_000);
        }
    }
}
