//! When two e-mail addresses are the same mailbox, for finding self-referrals.

/// The mailbox an address stands for: lower case, without a plus tag, and without dots where the
/// provider ignores them. Empty for text that is not an address.
///
/// Used only to compare; the address as written is what people see.
#[must_use]
pub fn normalise(address: &str) -> String {
    let lower = address.trim().to_lowercase();
    let Some((local, host)) = lower.rsplit_once('@') else {
        return String::new();
    };
    let local = local.split('+').next().unwrap_or_default();
    let host = if host == "googlemail.com" { "gmail.com" } else { host };
    let local = if host == "gmail.com" { local.replace('.', "") } else { local.to_owned() };
    if local.is_empty() || host.is_empty() { String::new() } else { format!("{local}@{host}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_mailbox_are_equal() {
        assert_eq!(normalise(" Ann.Lee+shop@GoogleMail.com "), normalise("annlee@gmail.com"));
        assert_eq!(normalise("a+b@x.org"), "a@x.org");
        assert_ne!(normalise("a.b@x.org"), normalise("ab@x.org"));
    }

    #[test]
    fn text_without_a_mailbox_is_nothing() {
        assert_eq!(normalise("nobody"), "");
        assert_eq!(normalise("+tag@x.org"), "");
    }
}
