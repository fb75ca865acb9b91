//! What goes wrong, and for whom: scripted rules that matching requests consume, and random ones.
//!
//! A fault is chosen when a request arrives; `server.rs` and `api.rs` act it out. The kinds and their
//! fields are part of the control API, documented on [`Fault`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{clock::SECOND_US, form::Form, rng::Rng};

/// One thing that goes wrong, as `{"kind": "execute_then_hang"}`. Times are seconds of the sandbox's clock.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Nothing is executed and nothing answered; the key is not taken. Ends with a reset.
    HangBeforeExecute,
    /// The key is taken; the request waits for `POST /_sandbox/release`, then is executed and answered,
    /// also when the client has left meanwhile.
    ExecuteOnRelease,
    /// Executed and stored under the key, never answered.
    ExecuteThenHang,
    /// Executed, but the answer is a 500 that is stored under the key.
    #[serde(rename = "execute_then_500")]
    ExecuteThen500,
    /// A 500 that is stored under the key unless `stored` is false. With `late_s` the request is executed
    /// that much later all the same, and nobody but a webhook says so.
    #[serde(rename = "fail_500_without_execute")]
    Fail500WithoutExecute {
        /// Executed after this time; never without it.
        #[serde(default)]
        late_s: Option<u32>,
        /// Whether the key keeps the 500.
        #[serde(default = "yes")]
        stored: bool,
    },
    /// Executed and stored; the connection is reset after this many bytes of the answer, head included.
    ExecuteThenResetAtByte {
        /// Bytes that leave. An answer that is not longer arrives whole.
        #[serde(default)]
        byte: usize,
    },
    /// The connection is reset, nothing is executed.
    ResetBeforeExecute,
    /// Executed and stored; the answer is complete HTTP whose JSON ends after this many bytes.
    TruncatedBody {
        /// Bytes of the body that are left.
        #[serde(default)]
        byte: usize,
    },
    /// An edge in front of the provider answers with a page, before or after the execution.
    Html {
        /// 502, 503 or 504.
        #[serde(default = "bad_gateway")]
        status: u16,
        /// Whether the request was executed (and its answer stored) behind the edge.
        #[serde(default)]
        executed: bool,
    },
    /// 429, nothing executed or stored.
    TooManyRequests {
        /// The header `Retry-After`; left out without it.
        #[serde(default)]
        retry_after_s: Option<u32>,
        /// `lock_timeout` instead of `rate_limit`.
        #[serde(default)]
        lock_timeout: bool,
    },
    /// 409 `idempotency_key_in_use`.
    KeyInUse,
    /// 401, as with a revoked key.
    Unauthorized,
    /// 403, as with a restricted key.
    Forbidden,
    /// On a request that creates: what it creates is missing from lists. On a list: what was created in
    /// the last `for_s` seconds is missing from this answer. For ever without `for_s`.
    Hide {
        /// How long.
        #[serde(default)]
        for_s: Option<u32>,
    },
    /// Executed twice; the second object is announced like the first.
    Duplicate,
    /// Executed and stored truthfully; this one answer has the given fields replaced.
    Lie {
        /// Top-level fields of the answer.
        #[serde(default)]
        set: Map<String, Value>,
    },
    /// 307 to the same path, or to `location`. Nothing is executed.
    Redirect {
        /// The header `Location`.
        #[serde(default)]
        location: Option<String>,
    },
    /// The header `Stripe-Should-Retry`, whatever the answer.
    ShouldRetry {
        /// Its value.
        #[serde(default)]
        value: bool,
    },
    /// The webhooks are delivered before the request is answered.
    WebhookBeforeAnswer,
    /// The webhooks become due this much later.
    WebhookLate {
        /// How much.
        #[serde(default = "hour")]
        for_s: u32,
    },
    /// Each webhook is delivered this many times more.
    WebhookDuplicate {
        /// Further deliveries of the same event.
        #[serde(default = "one")]
        times: u32,
    },
    /// The events exist, but no webhook is ever sent.
    WebhookNone,
}

const fn yes() -> bool {
    true
}

const fn bad_gateway() -> u16 {
    502
}

const fn hour() -> u32 {
    3600
}

const fn one() -> u32 {
    1
}

/// Which requests a rule is for. What is absent matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// `GET` or `POST`.
    pub method: Option<String>,
    /// How the path begins.
    pub path_prefix: Option<String>,
    /// The parameter `destination`.
    pub destination: Option<String>,
    /// The header `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// Parameters and their values, names as they are sent.
    pub form: BTreeMap<String, String>,
}

/// One value or several.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several at once.
    Many(Vec<T>),
}

impl<T: Clone> OneOrMany<T> {
    fn to_vec(&self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::Many(many) => many.clone(),
        }
    }
}

/// Faults for the next matching requests.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scripted {
    /// Which requests.
    #[serde(default, rename = "match")]
    pub matching: Match,
    /// Matching requests that are spared first.
    #[serde(default)]
    pub skip: u32,
    /// Matching requests that are hit after that.
    #[serde(default = "one")]
    pub times: u32,
    /// What happens to them; several act together where that makes sense.
    pub fault: OneOrMany<Fault>,
}

/// Faults that hit matching requests at random.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Random {
    /// Where the numbers come from.
    pub seed: u64,
    /// How many of a thousand matching requests are hit.
    pub permille: u32,
    /// Names of faults, or whole faults. The number of bytes is drawn as well where a name says nothing.
    pub kinds: Vec<Value>,
    /// Which requests.
    #[serde(default, rename = "match")]
    pub matching: Match,
}

/// A body of `POST /_sandbox/faults`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Rule {
    /// Replaces the random faults.
    Random {
        /// The new ones.
        random: Random,
    },
    /// Is put behind the scripted rules that are left.
    Scripted(Scripted),
}

/// What a request looks like to the rules.
pub(super) struct Seen<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) idempotency_key: Option<&'a str>,
    pub(super) form: &'a Form,
}

impl Match {
    fn is_met(&self, seen: &Seen<'_>) -> bool {
        let same = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == found)
        };
        same(&self.method, Some(seen.method))
            && self.path_prefix.as_deref().is_none_or(|prefix| seen.path.starts_with(prefix))
            && same(&self.destination, seen.form.get("destination"))
            && same(&self.idempotency_key, seen.idempotency_key)
            && self.form.iter().all(|(name, value)| seen.form.get(name) == Some(value))
    }
}

/// The rules in force.
#[derive(Debug, Default)]
pub(super) struct Faults {
    scripted: Vec<Scripted>,
    random: Option<(Random, Vec<Fault>, Rng)>,
}

impl Faults {
    /// # Errors
    /// A name in `kinds` is not that of a fault.
    pub(super) fn add(&mut self, rule: Rule) -> Result<(), serde_json::Error> {
        match rule {
            Rule::Scripted(scripted) => self.scripted.push(scripted),
            Rule::Random { random } => {
                let kinds = random.kinds.iter().map(|kind| match kind {
                    Value::String(name) => Fault::deserialize(serde_json::json!({ "kind": name })),
                    whole => Fault::deserialize(whole),
                });
                let kinds = kinds.collect::<Result<_, _>>()?;
                let rng = Rng::new(random.seed);
                self.random = Some((random, kinds, rng));
            }
        }
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The rules that are left, as JSON.
    pub(super) fn list(&self) -> Value {
        let random = self.random.as_ref().map(|(random, ..)| random);
        serde_json::json!({ "scripted": self.scripted, "random": random })
    }

    /// What happens to this request. The first scripted rule that it meets wins over the random ones.
    pub(super) fn plan(&mut self, seen: &Seen<'_>) -> Plan {
        for rule in &mut self.scripted {
            if !rule.matching.is_met(seen) || rule.times == 0 {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times -= 1;
            let faults = rule.fault.to_vec();
            self.scripted.retain(|rule| rule.times > 0);
            return Plan(faults);
        }
        let Some((random, kinds, rng)) = &mut self.random else { return Plan::default() };
        if kinds.is_empty() || !random.matching.is_met(seen) {
            return Plan::default();
        }
        let is_hit = u64::from(random.permille) > rng.next() % 1000;
        if !is_hit {
            return Plan::default();
        }
        let mut fault = kinds[rng.below(kinds.len())].clone();
        if let Fault::ExecuteThenResetAtByte { byte } | Fault::TruncatedBody { byte } = &mut fault
            && *byte == 0
        {
            // Within the head or the body of most answers.
            *byte = rng.below(1200);
        }
        Plan(vec![fault])
    }
}

/// What happens to one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan(pub(super) Vec<Fault>);

/// How the webhooks of a request are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    pub(super) is_sent: bool,
    pub(super) late_s: u32,
    pub(super) copies: u32,
}

impl Plan {
    pub(super) fn has(&self, fault: &Fault) -> bool {
        self.0.contains(fault)
    }

    /// The one that `pick` finds something in.
    pub(super) fn find<'a, T>(&'a self, pick: impl FnMut(&'a Fault) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(pick)
    }

    pub(super) fn announcement(&self) -> Announcement {
        let late_s = self.find(|fault| match fault {
            Fault::WebhookLate { for_s } => Some(*for_s),
            _ => None,
        });
        let more = self.find(|fault| match fault {
            Fault::WebhookDuplicate { times } => Some(*times),
            _ => None,
        });
        Announcement {
            is_sent: !self.has(&Fault::WebhookNone),
            late_s: late_s.unwrap_or(0),
            copies: more.unwrap_or(0).saturating_add(1),
        }
    }

    /// For how long lists miss what is created, or what they should show, microseconds; `i64::MAX` stands
    /// for ever.
    pub(super) fn hidden_for_us(&self) -> Option<i64> {
        self.find(|fault| match fault {
            Fault::Hide { for_s } => Some(for_s.map_or(i64::MAX, |for_s| i64::from(for_s) * SECOND_US)),
            _ => None,
        })
    }

    /// Fields of the answer that are not true.
    pub(super) fn lies(&self) -> Option<&Map<String, Value>> {
        self.find(|fault| match fault {
            Fault::Lie { set } => Some(set),
            _ => None,
        })
    }

    pub(super) fn should_retry(&self) -> Option<bool> {
        self.find(|fault| match fault {
            Fault::ShouldRetry { value } => Some(*value),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(rules: Value) -> Faults {
        let mut faults = Faults::default();
        for rule in serde_json::from_value::<Vec<Rule>>(rules).unwrap() {
            faults.add(rule).unwrap();
        }
        faults
    }

    fn drawn(faults: &mut Faults, method: &str, body: &str) -> Vec<Fault> {
        let form = Form::parse(body.as_bytes()).unwrap();
        faults.plan(&Seen { method, path: "/v1/transfers", idempotency_key: Some("k"), form: &form }).0
    }

    #[test]
    fn a_rule_spares_then_hits_then_is_used_up() {
        let mut faults = faults(json!([
            {"match": {"method": "POST", "destination": "acct_1"}, "skip": 1, "times": 2, "fault": {"kind": "key_in_use"}},
        ]));
        let hits: Vec<bool> = [("POST", "acct_1"), ("GET", "acct_1"), ("POST", "acct_2")]
            .into_iter()
            .chain([("POST", "acct_1"); 3])
            .map(|(method, to)| !drawn(&mut faults, method, &format!("destination={to}")).is_empty())
            .collect();
        assert_eq!(hits, [false, false, false, true, true, false]);
        assert_eq!(faults.list()["scripted"], json!([]));
    }

    #[test]
    fn faults_can_act_together() {
        let mut faults = faults(json!([
            {"fault": [{"kind": "execute_then_500"}, {"kind": "webhook_late", "for_s": 7}]},
        ]));
        let plan = Plan(drawn(&mut faults, "POST", ""));
        assert!(plan.has(&Fault::ExecuteThen500));
        assert_eq!(plan.announcement(), Announcement { is_sent: true, late_s: 7, copies: 1 });
    }

    #[test]
    fn random_faults_repeat_with_their_seed() {
        let rule = json!([{"random": {
            "seed": 11, "permille": 300, "kinds": ["execute_then_hang", "execute_then_reset_at_byte"],
        }}]);
        let run = |rule: &Value| {
            let mut faults = faults(rule.clone());
            (0..200).map(|_| drawn(&mut faults, "POST", "")).collect::<Vec<_>>()
        };
        let first = run(&rule);
        assert_eq!(first, run(&rule));
        let hit = first.iter().filter(|faults| !faults.is_empty()).count();
        assert!((30..90).contains(&hit), "{hit} of 200");
    }

    #[test]
    fn unknown_faults_are_refused() {
        for rule in [
            json!({"fault": {"kind": "nonsense"}}),
            json!({"fault": {"kind": "hide", "for": 1}}),
            json!({"match": {"verb": "GET"}, "fault": {"kind": "key_in_use"}}),
        ] {
            assert!(serde_json::from_value::<Rule>(rule.clone()).is_err(), "{rule}");
        }
        let random = json!({"random": {"seed": 1, "permille": 1, "kinds": ["nonsense"]}});
        assert!(Faults::default().add(serde_json::from_value(random).unwrap()).is_err());
    }
}
