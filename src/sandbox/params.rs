//! Which parameters a route takes, and what is refused before anything is executed.
//!
//! A refusal from here is never stored under an idempotency key (`docs.stripe.com/api/idempotent_requests`).
//! Names and kinds are those of API version 2026-07-29.dahlia.

use super::{error::ApiError, form::Form};

/// Currencies that can be charged and transferred.
const CURRENCIES: &str = "aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp \
    byn bzd cad cdf chf clp cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq \
    gyd hkd hnl htg huf idr ils inr isk jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad \
    mdl mga mkd mmk mnt mop mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg \
    qar ron rsd rub rwf sar sbd scr sek sgd shp sle sos srd std szl thb tjs tnd top try ttd twd tzs uah ugx \
    usd uyu uzs vnd vuv wst xaf xcd xof xpf yer zar zmw";

/// The largest amount, in minor units: twelve digits.
const AMOUNT_MAX: i64 = 999_999_999_999;

/// What a parameter may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Text that cannot be unset.
    Text,
    /// Text that an empty value unsets.
    Clearable,
    /// Minor units, 1 or more.
    Amount,
    /// Minor units, 0 or more.
    Fee,
    /// `limit` of a list.
    PageSize,
    Flag,
    Currency,
    Choice(&'static [&'static str]),
    /// `name[key]=value` within the limits of metadata.
    Metadata,
    /// `name[]=value`, or `name[0]=value`.
    List,
    /// Whole seconds, or `name[gt]`, `name[gte]`, `name[lt]`, `name[lte]`.
    Times,
    /// Anything below `name[…]`; the sandbox reads of it what it understands.
    Tree,
}

/// A parameter of a route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Param {
    pub(super) name: &'static str,
    kind: Kind,
    required: bool,
}

pub(super) const fn required(name: &'static str, kind: Kind) -> Param {
    Param { name, kind, required: true }
}

pub(super) const fn optional(name: &'static str, kind: Kind) -> Param {
    Param { name, kind, required: false }
}

/// What every list takes.
pub(super) const PAGE: &[Param] = &[
    optional("limit", Kind::PageSize),
    optional("starting_after", Kind::Text),
    optional("ending_before", Kind::Text),
];

/// Refuses what the route does not take, as the provider does: unknown names first, then what is missing.
pub(super) fn check(form: &Form, groups: &[&[Param]]) -> Result<(), ApiError> {
    const EXPAND: &[Param] = &[optional("expand", Kind::List)];
    let params = || groups.iter().copied().chain([EXPAND]).flatten();
    for (name, value) in form.iter() {
        let param =
            params().find(|param| param.takes(name)).ok_or_else(|| ApiError::unknown_parameter(name))?;
        param.check(name, value)?;
    }
    if let Some(missing) = params().find(|param| param.required && form.last(param.name).is_none()) {
        return Err(ApiError::missing_parameter(missing.name));
    }
    if params().any(|param| matches!(param.kind, Kind::Metadata)) {
        check_metadata(form)?;
    }
    check_minor_units(form)
}

impl Param {
    fn takes(&self, sent: &str) -> bool {
        let Some(rest) = sent.strip_prefix(self.name) else { return false };
        let inner = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match self.kind {
            Kind::List => inner.is_some_and(|key| key.bytes().all(|byte| byte.is_ascii_digit())),
            Kind::Times => {
                rest.is_empty() || inner.is_some_and(|key| ["gt", "gte", "lt", "lte"].contains(&key))
            }
            Kind::Metadata => rest.is_empty() || inner.is_some_and(|key| !key.is_empty()),
            Kind::Tree => inner.is_some(),
            Kind::Text
            | Kind::Clearable
            | Kind::Amount
            | Kind::Fee
            | Kind::PageSize
            | Kind::Flag
            | Kind::Currency
            | Kind::Choice(_) => rest.is_empty(),
        }
    }

    fn check(&self, name: &str, value: &str) -> Result<(), ApiError> {
        let may_be_empty = matches!(self.kind, Kind::Clearable | Kind::Metadata | Kind::Tree);
        if value.is_empty() && !may_be_empty {
            return Err(ApiError::empty_parameter(name));
        }
        match self.kind {
            Kind::Amount => whole(name, value, 1, AMOUNT_MAX),
            Kind::Fee => whole(name, value, 0, AMOUNT_MAX),
            Kind::PageSize => whole(name, value, 1, 100),
            Kind::Times => whole(name, value, i64::MIN, i64::MAX),
            Kind::Flag if !["true", "false"].contains(&value) => {
                Err(ApiError::invalid(400, None, format!("Invalid boolean: {value}")).about(name))
            }
            Kind::Currency if !CURRENCIES.split_ascii_whitespace().any(|known| known == value) => {
                Err(ApiError::invalid(400, None, format!("Invalid currency: {value}")).about(name))
            }
            Kind::Choice(choices) if !choices.contains(&value) => {
                let message = format!("Invalid {name}: must be one of {}", choices.join(", "));
                Err(ApiError::invalid(400, None, message).about(name))
            }
            Kind::Metadata if name == self.name && !value.is_empty() => {
                Err(ApiError::invalid(400, None, "Invalid hash").about(name))
            }
            Kind::Text
            | Kind::Clearable
            | Kind::Flag
            | Kind::Currency
            | Kind::Choice(_)
            | Kind::Metadata
            | Kind::List
            | Kind::Tree => Ok(()),
        }
    }
}

fn whole(name: &str, value: &str, least: i64, most: i64) -> Result<(), ApiError> {
    // `i64::from_str` would take a plus sign as well.
    let number = value.parse::<i64>().ok().filter(|_| !value.starts_with('+'));
    let number =
        number.ok_or_else(|| ApiError::integer_parameter(name, format!("Invalid integer: {value}")))?;
    if number < least {
        let message = format!("This value must be greater than or equal to {least}.");
        return Err(ApiError::integer_parameter(name, message));
    }
    if number > most {
        let message = format!("This value must be less than or equal to {most}.");
        return Err(ApiError::integer_parameter(name, message));
    }
    Ok(())
}

/// At most 50 keys of 40 characters with values of 500 (docs.stripe.com/api/metadata).
fn check_metadata(form: &Form) -> Result<(), ApiError> {
    let refuse = |message: &str| Err(ApiError::invalid(400, None, message).about("metadata"));
    if form.map("metadata").count() > 50 {
        return refuse("Metadata can have up to 50 keys.");
    }
    for (key, value) in form.map("metadata") {
        if key.chars().count() > 40 {
            return refuse("Metadata keys can be up to 40 characters long.");
        }
        if value.chars().count() > 500 {
            return refuse("Metadata values can be up to 500 characters long.");
        }
    }
    Ok(())
}

/// Three-decimal currencies end in 0 and the krona has no cents (docs.stripe.com/currencies#special-cases).
fn check_minor_units(form: &Form) -> Result<(), ApiError> {
    let (Some(currency), Some(amount)) = (form.get("currency"), form.integer("amount")) else {
        return Ok(());
    };
    let step = match currency {
        "bhd" | "jod" | "kwd" | "omr" | "tnd" => 10,
        "isk" => 100,
        _ => 1,
    };
    if amount % step == 0 {
        return Ok(());
    }
    let message = format!("Amounts in {currency} must be multiples of {step}.");
    Err(ApiError::invalid(400, Some("invalid_charge_amount_no_decimal_compatible"), message).about("amount"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: &[Param] = &[
        required("amount", Kind::Amount),
        optional("currency", Kind::Currency),
        optional("metadata", Kind::Metadata),
        optional("created", Kind::Times),
        optional("confirm", Kind::Flag),
        optional("types", Kind::List),
    ];

    /// The code (or `-`) and the parameter that the text is refused with.
    fn refusal(text: &str) -> Option<(String, String)> {
        let error = check(&Form::parse(text.as_bytes()).unwrap(), &[PARAMS]).err()?;
        assert_eq!(error.status, 400);
        let body = error.body("req_1", false, 0);
        let word = |field: &str| body["error"][field].as_str().unwrap_or("-").to_owned();
        Some((word("code"), word("param")))
    }

    #[test]
    fn parameters_are_refused_one_by_one() {
        let long_key = format!("amount=1&metadata[{}]=x", "k".repeat(41));
        let long_value = format!("amount=1&metadata[k]={}", "v".repeat(501));
        let many: Vec<String> = (0..51).map(|n| format!("&metadata[k{n}]=v")).collect();
        for (text, code, param) in [
            ("", "parameter_missing", "amount"),
            ("amount=0", "parameter_invalid_integer", "amount"),
            ("amount=-1", "parameter_invalid_integer", "amount"),
            ("amount=1.5", "parameter_invalid_integer", "amount"),
            ("amount=%2B1", "parameter_invalid_integer", "amount"),
            ("amount=1000000000000", "parameter_invalid_integer", "amount"),
            ("amount=", "parameter_invalid_empty", "amount"),
            ("amount=1&curency=usd", "parameter_unknown", "curency"),
            ("amount=1&amount[x]=2", "parameter_unknown", "amount[x]"),
            ("amount=1&created[foo]=2", "parameter_unknown", "created[foo]"),
            ("amount=1&types[x]=2", "parameter_unknown", "types[x]"),
            ("amount=1&currency=USD", "-", "currency"),
            ("amount=1&currency=xyz", "-", "currency"),
            ("amount=1&confirm=yes", "-", "confirm"),
            ("amount=5&currency=kwd", "invalid_charge_amount_no_decimal_compatible", "amount"),
            ("amount=150&currency=isk", "invalid_charge_amount_no_decimal_compatible", "amount"),
            (&long_key, "-", "metadata"),
            (&long_value, "-", "metadata"),
            (&format!("amount=1{}", many.concat()), "-", "metadata"),
        ] {
            assert_eq!(refusal(text), Some((code.into(), param.into())), "{text}");
        }
    }

    #[test]
    fn good_parameters_pass() {
        for text in [
            "amount=1&currency=usd&metadata[k]=v&created[gte]=5&types[]=a&types[1]=b&expand[]=x",
            "amount=999999999999&metadata=",
            "amount=5120&currency=kwd",
            "amount=100&currency=isk",
        ] {
            assert_eq!(refusal(text), None, "{text}");
        }
    }
}
