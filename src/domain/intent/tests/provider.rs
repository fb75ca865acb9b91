//! A provider that keeps the promises of its pages and no others (<https://docs.stripe.com/api/idempotent_requests>,
//! <https://docs.stripe.com/error-low-level>).
//!
//! It knows nothing of intents: it sees keys and bytes. Every object it makes stands for money that moved.

use std::collections::BTreeMap;

use super::invariants::Violation;
use crate::domain::{intent::Verdict, time::Timestamp};

/// How long a key is kept at least, seconds; afterwards it may execute again.
pub const KEY_KEPT_S: i64 = 24 * 3_600;

/// What a caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub verdict: Verdict,
    pub replayed: bool,
    /// Advice that says nothing of what happened.
    pub retry_advised: bool,
    /// Number of the object, of a success.
    pub object: Option<usize>,
}

impl Answer {
    const fn fresh(verdict: Verdict) -> Self {
        Self { verdict, replayed: false, retry_advised: false, object: None }
    }

    /// What a caller concludes when no whole answer came.
    pub const LOST: Self = Self::fresh(Verdict::Ambiguous);

    /// What a caller knows when not one byte left.
    pub const NOT_SENT: Self = Self::fresh(Verdict::NotSent);
}

/// What becomes of a request that arrives. Where a key has a stored result, that is what most lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Executed as balance and account allow.
    Straight,
    /// Execution starts and goes on until the request is taken up again.
    Starts,
    /// Turned away by the rate limit, before the key is looked at.
    RateLimited,
    /// An edge server answers with an error; nothing behind it was reached.
    EdgeError,
    /// Refused by a check that runs before the key is stored, so the refusal is not kept.
    TurnedBack(Verdict),
    /// Fails before it moves money; the error is stored.
    StoredError,
    /// Moves the money and fails afterwards; the error is stored.
    StoredErrorAfterMoving,
    /// Fails, the error is stored, and the provider rolls it forward later.
    StoredErrorThenMoves,
    /// Never arrives.
    Vanishes,
    /// The connection is refused before the first byte.
    Unreachable,
}

/// A call on its way. It lives on when its caller dies.
#[derive(Clone, Debug)]
pub struct Request {
    pub attempt: usize,
    pub key: String,
    pub body: String,
    /// When its attempt was written down.
    pub made_at: Timestamp,
    /// Whether the provider is executing it.
    pub started: bool,
}

/// Money that moved.
#[derive(Clone, Debug)]
pub struct Object {
    pub key: String,
}

/// Whether an answer advises to try again: by turns, so that stories meet both.
const fn advises(request: &Request) -> bool {
    request.attempt % 2 == 1
}

enum Kept {
    InFlight,
    Result { verdict: Verdict, object: Option<usize> },
}

struct Key {
    body: String,
    since: Timestamp,
    kept: Kept,
}

/// What look-ups see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lists {
    /// Everything.
    Complete,
    /// Nothing that is new.
    Hiding,
    /// No whole page is answered.
    Failing,
}

#[expect(clippy::struct_excessive_bools, reason = "each is switched on its own by a story")]
pub struct Provider {
    keys: BTreeMap<String, Key>,
    pub objects: Vec<Object>,
    /// Keys whose operation is rolled forward some time.
    late: Vec<String>,
    /// Whether keys are forgotten as soon as they may be; otherwise never.
    pub forgets: bool,
    pub has_funds: bool,
    pub account_ready: bool,
    /// Whether the destination is refused for good.
    pub refuses: bool,
    pub knows_our_key: bool,
    pub lists: Lists,
    /// Objects below this number are in every list that is answered.
    pub settled_objects: usize,
}

impl Provider {
    pub fn new(forgets: bool, has_funds: bool, account_ready: bool) -> Self {
        Self {
            keys: BTreeMap::new(),
            objects: Vec::new(),
            late: Vec::new(),
            forgets,
            has_funds,
            account_ready,
            refuses: false,
            knows_our_key: true,
            lists: Lists::Complete,
            settled_objects: 0,
        }
    }

    /// Drops keys that are old enough.
    pub fn forget(&mut self, now: Timestamp) {
        let forgets = self.forgets;
        self.keys.retain(|_, key| {
            matches!(key.kept, Kept::InFlight) || !forgets || now < key.since.plus_secs(KEY_KEPT_S)
        });
    }

    /// Takes a request and answers it. `None`: no answer will come, or execution has only started.
    pub fn receive(
        &mut self,
        request: &mut Request,
        fate: Fate,
        now: Timestamp,
    ) -> Result<Option<Answer>, Violation> {
        self.forget(now);
        if request.started {
            return Ok(Some(self.finish(request, fate, now)));
        }
        match fate {
            Fate::Vanishes => return Ok(None),
            Fate::Unreachable => return Ok(Some(Answer::NOT_SENT)),
            Fate::RateLimited => return Ok(Some(Answer::fresh(Verdict::TurnedAway))),
            Fate::EdgeError => return Ok(Some(Answer::LOST)),
            _ if !self.knows_our_key => return Ok(Some(Answer::fresh(Verdict::Unauthorized))),
            _ => {}
        }
        match self.keys.get(&request.key) {
            Some(key) if key.body != request.body => return Err(Violation::BodyChanged),
            Some(Key { kept: Kept::InFlight, .. }) => return Ok(Some(Answer::LOST)),
            Some(Key { kept: Kept::Result { verdict, object }, .. }) => {
                let retry_advised = advises(request);
                return Ok(Some(Answer {
                    verdict: *verdict,
                    replayed: true,
                    retry_advised,
                    object: *object,
                }));
            }
            None => {}
        }
        if let Fate::TurnedBack(verdict) = fate {
            return Ok(Some(Answer { retry_advised: advises(request), ..Answer::fresh(verdict) }));
        }
        self.keys.insert(
            request.key.clone(),
            Key { body: request.body.clone(), since: now, kept: Kept::InFlight },
        );
        request.started = true;
        Ok((fate != Fate::Starts).then(|| self.finish(request, fate, now)))
    }

    fn finish(&mut self, request: &Request, fate: Fate, now: Timestamp) -> Answer {
        let refusal = if self.refuses {
            Some(Verdict::Refused)
        } else if !self.account_ready {
            Some(Verdict::AccountNotReady)
        } else if !self.has_funds {
            Some(Verdict::InsufficientFunds)
        } else {
            None
        };
        let (verdict, object) = match fate {
            Fate::StoredError => (Verdict::Ambiguous, None),
            Fate::StoredErrorThenMoves => {
                self.late.push(request.key.clone());
                (Verdict::Ambiguous, None)
            }
            Fate::StoredErrorAfterMoving if refusal.is_none() => {
                self.make(&request.key);
                (Verdict::Ambiguous, None)
            }
            _ => match refusal {
                Some(verdict) => (verdict, None),
                None => (Verdict::Executed, Some(self.make(&request.key))),
            },
        };
        let kept = Kept::Result { verdict, object };
        let key = Key { body: request.body.clone(), since: now, kept };
        self.keys.insert(request.key.clone(), key);
        Answer { verdict, replayed: false, retry_advised: advises(request), object }
    }

    fn make(&mut self, key: &str) -> usize {
        self.objects.push(Object { key: key.to_owned() });
        self.objects.len() - 1
    }

    /// Rolls one failed operation forward.
    pub fn roll_forward(&mut self) {
        if let Some(key) = self.late.pop() {
            self.make(&key);
        }
    }

    /// The objects of a list read now; `None` when it cannot be read to the end.
    pub fn list(&self) -> Option<Vec<usize>> {
        match self.lists {
            Lists::Complete => Some((0..self.objects.len()).collect()),
            Lists::Hiding => Some((0..self.settled_objects).collect()),
            Lists::Failing => None,
        }
    }

    /// Whether this request, should it arrive now, might still move money.
    pub fn might_execute(&self, request: &Request) -> bool {
        !matches!(self.keys.get(&request.key), Some(Key { kept: Kept::Result { .. }, .. }))
    }

    /// Whether an operation is going to be rolled forward.
    pub fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// A result as another caller left it before the story began.
    pub fn remember(&mut self, key: &str, body: &str, since: Timestamp) {
        let object = self.make(key);
        let kept = Kept::Result { verdict: Verdict::Executed, object: Some(object) };
        self.keys.insert(key.to_owned(), Key { body: body.to_owned(), since, kept });
        self.settled_objects = self.objects.len();
    }
}
