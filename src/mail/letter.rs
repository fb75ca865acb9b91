//! What a letter says, in plain text and in HTML. The words are in `templates/mail`.
//!
//! Names come from strangers: the HTML templates escape every value, and [`Reader::new`] makes each name one
//! line without characters that change how a line is read. A letter holds no image and nothing that tells
//! the sender whether it was opened, and no link but that of an invitation.

use askama::Template;
use secrecy::{ExposeSecret as _, SecretString};

use crate::domain::{
    money::Money,
    notice::{Change, Why},
    program::EnrollmentStatus,
};

/// Longest part of a name that is shown, characters.
const NAME_MAX: usize = 120;

/// Who reads, and about what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    name: String,
    program: String,
    owner: String,
}

impl Reader {
    /// The affiliate, the program and its owner, by their names.
    #[must_use]
    pub fn new(name: &str, program: &str, owner: &str) -> Self {
        Self { name: one_line(name), program: one_line(program), owner: one_line(owner) }
    }
}

/// A name as one line: without control characters and without those that turn the direction of the text
/// around them (Unicode Standard Annex 9, explicit formatting), cut where it is very long.
fn one_line(name: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let plain: String =
        name.chars().filter(|c| !turns(*c)).map(|c| if breaks(c) { ' ' } else { c }).take(NAME_MAX).collect();
    plain.trim().to_owned()
}

/// What happened to commissions: so many of them, in one way, in one currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What happened.
    pub change: Change,
    /// Why something was taken back.
    pub why: Option<Why>,
    /// To how many.
    pub count: i64,
    /// Together, more than 0.
    pub amount: Money,
}

impl Line {
    /// The line as a sentence without its full stop.
    fn text(&self) -> String {
        let Self { count, amount, .. } = self;
        let commissions = if *count == 1 { "commission" } else { "commissions" };
        match (self.change, self.why) {
            (Change::Earned, _) => format!("You earned {amount} ({count} {commissions})"),
            (Change::GivenBack, _) => {
                format!("{amount} that had been taken back is yours again ({count} {commissions})")
            }
            (Change::TakenBack, why) => {
                let why = why.map_or("", reason);
                format!("{amount} was taken back ({count} {commissions}){why}")
            }
        }
    }
}

/// Why something was taken back, to follow the amount.
const fn reason(why: Why) -> &'static str {
    match why {
        Why::Refund => ": the buyer was refunded",
        Why::Dispute => ": the buyer disputed the payment",
        Why::Rejected => ": the program's owner did not accept the sale",
        Why::Fraud => ": the program's owner found the sale not to be genuine",
        Why::Decided => ": the program's owner decided so",
        Why::TransferReturned => ": the transfer that paid it was returned",
        Why::Merged => ": two records turned out to be the same sale",
        Why::Reattributed => ": the sale turned out to belong to another affiliate",
        Why::Corrected => ": the sale turned out to be worth less",
    }
}

/// What the reader has in one currency now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Earned, and not to be paid out yet.
    pub held: Money,
    /// To be paid out; less than 0 is a debt.
    pub payable: Money,
}

/// How an enrollment is taken over that was made for the address.
#[derive(Clone, Debug)]
pub enum Invitation {
    /// By opening an address that holds the token.
    Link(SecretString),
    /// By handing the token to the API.
    Token {
        /// The token.
        token: SecretString,
        /// Where the API is, without a trailing slash.
        api: String,
        /// Whether a key can be had there without asking anybody.
        has_signup: bool,
    },
}

/// What a letter tells.
#[derive(Clone, Debug)]
pub enum Letter {
    /// Where the enrollment stands now, and how it is taken over where the reader has yet to do so.
    Enrollment(EnrollmentStatus, Option<Invitation>),
    /// What happened to commissions, and what the reader has now.
    Commissions {
        /// What happened.
        lines: Vec<Line>,
        /// What the reader has, per currency.
        balances: Vec<Balance>,
    },
    /// A payout was sent.
    PayoutCompleted {
        /// What was coming to the reader.
        due: Money,
        /// What the platform kept of it.
        fee: Money,
        /// What was sent.
        sent: Money,
        /// What of that came back since; 0 for nothing.
        reversed: Money,
    },
    /// A payout waits for the reader's account.
    PayoutWaiting {
        /// What will be sent.
        sent: Money,
    },
}

/// A letter, ready to be put into a message. It may hold the token of an invitation.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    /// One line.
    pub subject: String,
    /// Plain text.
    pub text: String,
    /// HTML, whole document.
    pub html: String,
}

/// What both templates lay out: the words are written once, so that neither says what the other does not.
struct Words {
    subject: String,
    opening: String,
    lines: Vec<String>,
    link: Option<String>,
    closing: String,
}

#[derive(Template)]
#[template(path = "mail/letter.txt")]
struct AsText<'l> {
    reader: &'l Reader,
    words: &'l Words,
}

#[derive(Template)]
#[template(path = "mail/letter.html")]
struct AsHtml<'l> {
    reader: &'l Reader,
    words: &'l Words,
}

impl Letter {
    /// The letter in both forms, for one reader.
    ///
    /// # Errors
    /// [`askama::Error`] when a template fails, which only running out of memory makes it do.
    pub fn write(&self, reader: &Reader) -> Result<Content, askama::Error> {
        let words = self.words(reader);
        let text = AsText { reader, words: &words }.render()?;
        let html = AsHtml { reader, words: &words }.render()?;
        Ok(Content { subject: words.subject, text, html })
    }

    fn words(&self, reader: &Reader) -> Words {
        let Reader { program, owner, .. } = reader;
        match self {
            Self::Enrollment(status, None) => enrollment_words(*status, program, owner),
            Self::Enrollment(status, Some(invitation)) => {
                enrollment_words(*status, program, owner).with(invitation, owner)
            }
            Self::Commissions { lines, balances } => Words {
                subject: format!("Your commissions in {program}"),
                opening: format!(
                    "This is what happened to your commissions in the affiliate program {program}:"
                ),
                lines: lines.iter().map(|line| format!("{}.", line.text())).collect(),
                link: None,
                closing: balances.iter().map(Balance::text).collect::<Vec<String>>().join(" "),
            },
            Self::PayoutCompleted { due, fee, sent, reversed } => {
                let mut lines = vec![format!("Sent to your account: {sent}.")];
                if fee.minor > 0 {
                    lines.push(format!("That is {due} that was payable, less a fee of {fee}."));
                }
                if reversed.minor > 0 {
                    lines.push(format!("Of what was sent, {reversed} has been returned since."));
                }
                Words {
                    subject: format!("Your payout of {sent} from {program} was sent"),
                    opening: format!(
                        "A payout of your earnings in the affiliate program {program} was sent:"
                    ),
                    lines,
                    link: None,
                    closing: "When it reaches your bank depends on your payment provider.".to_owned(),
                }
            }
            Self::PayoutWaiting { sent } => Words {
                subject: format!("Your payout of {sent} from {program} is waiting"),
                opening: format!(
                    "A payout of your earnings in the affiliate program {program} cannot be sent yet, because \
                     your payment provider does not let your account receive money."
                ),
                lines: vec![format!("Waiting: {sent}.")],
                link: None,
                closing:
                    "Complete what your payment provider asks you for. The payout is then sent by itself, \
                          and nothing of it is lost meanwhile."
                        .to_owned(),
            },
        }
    }
}

impl Balance {
    fn text(&self) -> String {
        let Self { held, payable } = self;
        if payable.minor < 0 {
            let debt = Money { minor: payable.minor.saturating_abs(), currency: payable.currency };
            return format!(
                "Your balance is {held} on hold and a debt of {debt}, which your next earnings make up for."
            );
        }
        format!("Your balance is {payable} payable and {held} on hold.")
    }
}

fn enrollment_words(status: EnrollmentStatus, program: &str, owner: &str) -> Words {
    let (subject, opening, closing) = match status {
        EnrollmentStatus::Invited => (
            format!("{owner} invites you to the affiliate program {program}"),
            format!("{owner} invites you to promote the affiliate program {program} and to earn by it."),
            "If you do not know them, you need do nothing.",
        ),
        EnrollmentStatus::Pending => (
            format!("Your application to {program}"),
            format!("Your application to the affiliate program {program} has reached {owner}."),
            "You are told when it is decided.",
        ),
        EnrollmentStatus::Active => (
            format!("You are an affiliate of {program}"),
            format!("You take part in the affiliate program {program} of {owner}."),
            "Sales that name your code earn you commissions from now on.",
        ),
        EnrollmentStatus::Rejected => (
            format!("Your application to {program}"),
            format!("{owner} did not accept you to the affiliate program {program}."),
            "Please ask them if you think that this is a mistake.",
        ),
        EnrollmentStatus::Suspended => (
            format!("Your part in {program} is suspended"),
            format!("{owner} has suspended your part in the affiliate program {program}."),
            "New sales earn you nothing until that ends. What you have earned before stays yours.",
        ),
    };
    Words { subject, opening, lines: Vec::new(), link: None, closing: closing.to_owned() }
}

impl Words {
    /// With how the enrollment is taken over. Who only reads over a shoulder must not be able to.
    fn with(mut self, invitation: &Invitation, owner: &str) -> Self {
        match invitation {
            Invitation::Link(link) => {
                self.opening.push_str(
                    " To take it up, open the address below. It is for you alone: whoever has it can take your place.",
                );
                self.link = Some(link.expose_secret().to_owned());
            }
            Invitation::Token { token, api, has_signup } => {
                let token = token.expose_secret();
                self.opening.push_str(
                    " To take it up, you need the token below. It is for you alone: whoever has it can take your place.",
                );
                self.lines.push(format!("Your token: {token}"));
                self.lines.push(if *has_signup {
                    format!(
                        "Get a key, unless you have one: curl {api}/v1/public/affiliate/signup \
                         -d '{{\"email\": \"YOUR ADDRESS\", \"name\": \"YOUR NAME\"}}'"
                    )
                } else {
                    format!("Get a key, unless you have one: {owner} gives it to you.")
                });
                self.lines.push(format!(
                    "Hand in the token: curl {api}/v1/affiliate/me/invites/accept \
                     -H 'Authorization: Bearer YOUR KEY' -d '{{\"token\": \"{token}\"}}'"
                ));
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::Currency;

    const TOKEN: &str = "inv_0123456789";

    fn usd(minor: i64) -> Money {
        Money { minor, currency: Currency::parse("usd").unwrap() }
    }

    fn letters() -> Vec<Letter> {
        let line = |change, why| Line { change, why, count: 2, amount: usd(1_230) };
        let mut lines = vec![line(Change::Earned, None), line(Change::GivenBack, None)];
        lines.extend(Why::ALL.iter().map(|why| line(Change::TakenBack, Some(*why))));
        let balances = vec![Balance { held: usd(100), payable: usd(-700) }];
        let mut letters: Vec<Letter> =
            EnrollmentStatus::ALL.iter().map(|status| Letter::Enrollment(*status, None)).collect();
        letters.push(Letter::Commissions { lines, balances });
        letters.push(Letter::PayoutCompleted {
            due: usd(2_000),
            fee: usd(100),
            sent: usd(1_900),
            reversed: usd(5),
        });
        letters.push(Letter::PayoutWaiting { sent: usd(1_900) });
        letters
    }

    /// Each way to take an enrollment over.
    fn invitations() -> [Invitation; 3] {
        let token = |has_signup| Invitation::Token {
            token: SecretString::from(TOKEN),
            api: "https://remit.example.com".to_owned(),
            has_signup,
        };
        let link = format!("https://partners.example.com/join?as=\"partner\"&token={TOKEN}");
        [Invitation::Link(SecretString::from(link)), token(true), token(false)]
    }

    /// The letters that bring a token.
    fn with_token() -> Vec<Letter> {
        let of = |status: &EnrollmentStatus| {
            let status = *status;
            invitations().map(|invitation| Letter::Enrollment(status, Some(invitation)))
        };
        EnrollmentStatus::ALL.iter().flat_map(of).collect()
    }

    #[test]
    fn hostile_names_stay_text_in_html_and_one_line_everywhere() {
        let hostile = "<img src=x onerror=alert(1)>\r\nBcc: all@example.com\u{202e}\"'&";
        let reader = Reader::new(hostile, hostile, hostile);
        for letter in letters().into_iter().chain(with_token()) {
            let Content { subject, text, html } = letter.write(&reader).unwrap();
            assert!(!html.contains("<img") && html.contains("&#60;img"), "{html}");
            assert!(!subject.contains(['\r', '\n']), "{subject}");
            for part in [&subject, &text, &html] {
                assert!(!part.contains('\u{202e}') && !part.contains("\nBcc"), "{part}");
            }
        }
    }

    #[test]
    fn every_letter_says_the_same_in_both_forms_and_why_it_was_sent() {
        let reader = Reader::new("Ada", "Launch Partners", "Example Shop");
        for letter in letters() {
            let words = letter.words(&reader);
            let Content { text, html, .. } = letter.write(&reader).unwrap();
            let unescaped = html.replace("&#39;", "'");
            for said in words.lines.iter().chain([&words.opening, &words.closing]) {
                assert!(text.contains(said.as_str()), "{said} in {text}");
                assert!(unescaped.contains(said.as_str()), "{said} in {html}");
            }
            for part in [&text, &html] {
                assert!(part.contains("You receive this because"), "{part}");
                assert!(!part.contains("http") && !part.contains("src="), "{part}");
            }
        }
    }

    #[test]
    fn an_invitation_says_in_both_forms_how_it_is_taken_up_and_is_not_shown_in_a_log() {
        let reader = Reader::new("Ada", "Launch Partners", "Example Shop");
        for letter in with_token() {
            assert!(!format!("{letter:?}").contains(TOKEN), "{letter:?}");
            let Content { subject, text, html } = letter.write(&reader).unwrap();
            assert!(!subject.contains(TOKEN), "{subject}");
            let unescaped = html.replace("&#34;", "\"").replace("&#39;", "'").replace("&#38;", "&");
            let words = letter.words(&reader);
            for said in words.lines.iter().chain(&words.link).chain([&words.opening, &words.closing]) {
                assert!(text.contains(said.as_str()), "{said} in {text}");
                assert!(unescaped.contains(said.as_str()), "{said} in {html}");
            }
            assert!(text.contains(TOKEN), "{text}");
            let is_attribute_closed = !html.contains("\"partner\"");
            assert!(is_attribute_closed && !html.contains("src="), "{html}");
        }
    }

    #[test]
    fn amounts_are_told_per_currency_with_the_digits_of_each() {
        let yen = Money { minor: 500, currency: Currency::parse("jpy").unwrap() };
        let line = |amount| Line { change: Change::Earned, why: None, count: 1, amount };
        let letter = Letter::Commissions { lines: vec![line(usd(1_230)), line(yen)], balances: Vec::new() };
        let text = letter.write(&Reader::new("Ada", "Launch", "Shop")).unwrap().text;
        assert!(
            text.contains("12.30 USD (1 commission)") && text.contains("500 JPY (1 commission)"),
            "{text}"
        );
    }

    #[test]
    fn a_long_name_is_cut() {
        assert_eq!(one_line(&"é".repeat(1_000)).chars().count(), NAME_MAX);
        assert_eq!(one_line(" a\tb\u{2028}c "), "a b c");
    }
}
