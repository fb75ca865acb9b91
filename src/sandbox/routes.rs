//! The table of routes: method, path, parameters, and what is done.

use serde_json::Value;

use super::{
    accounts,
    error::ApiError,
    params::{Kind, PAGE, Param, optional, required},
    payments, reads, refunds, transfers,
    world::{Call, World},
};

/// One operation of the API.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: &'static str,
    /// `{}` stands for an id.
    pub(super) path: &'static str,
    /// Groups of parameters.
    pub(super) params: &'static [&'static [Param]],
    pub(super) run: fn(&mut World, &Call) -> Result<Value, ApiError>,
}

/// A route and the ids in its path.
pub(super) struct Found {
    pub(super) route: &'static Route,
    pub(super) args: Vec<String>,
}

const CREATED: &[Param] = &[optional("created", Kind::Times)];

const ACCOUNT: &[Param] = &[
    optional("type", Kind::Choice(&["custom", "express", "standard"])),
    optional("country", Kind::Text),
    optional("email", Kind::Text),
    optional("business_type", Kind::Choice(&["company", "government_entity", "individual", "non_profit"])),
    optional("default_currency", Kind::Currency),
    optional("metadata", Kind::Metadata),
    optional("capabilities", Kind::Tree),
    optional("controller", Kind::Tree),
    optional("business_profile", Kind::Tree),
    optional("settings", Kind::Tree),
];

const ACCOUNT_LINK: &[Param] = &[
    required("account", Kind::Text),
    required("type", Kind::Choice(&["account_onboarding", "account_update"])),
    optional("refresh_url", Kind::Text),
    optional("return_url", Kind::Text),
    optional("collect", Kind::Choice(&["currently_due", "eventually_due"])),
    optional("collection_options[fields]", Kind::Choice(&["currently_due", "eventually_due"])),
    optional("collection_options[future_requirements]", Kind::Choice(&["include", "omit"])),
];

const TRANSFER: &[Param] = &[
    optional("amount", Kind::Amount),
    required("currency", Kind::Currency),
    required("destination", Kind::Text),
    optional("description", Kind::Clearable),
    optional("metadata", Kind::Metadata),
    optional("source_transaction", Kind::Text),
    optional("source_type", Kind::Choice(&["bank_account", "card", "fpx"])),
    optional("transfer_group", Kind::Text),
];

const REVERSAL: &[Param] = &[
    optional("amount", Kind::Amount),
    optional("description", Kind::Clearable),
    optional("metadata", Kind::Metadata),
    optional("refund_application_fee", Kind::Flag),
];

const INTENT: &[Param] = &[
    required("amount", Kind::Amount),
    required("currency", Kind::Currency),
    optional("application_fee_amount", Kind::Fee),
    optional("automatic_payment_methods[enabled]", Kind::Flag),
    optional("automatic_payment_methods[allow_redirects]", Kind::Choice(&["always", "never"])),
    optional("capture_method", Kind::Choice(&["automatic", "automatic_async"])),
    optional("confirm", Kind::Flag),
    optional("confirmation_method", Kind::Choice(&["automatic"])),
    optional("customer", Kind::Text),
    optional("description", Kind::Clearable),
    optional("metadata", Kind::Metadata),
    optional("off_session", Kind::Flag),
    optional("on_behalf_of", Kind::Text),
    optional("payment_method", Kind::Text),
    optional("payment_method_types", Kind::List),
    optional("receipt_email", Kind::Clearable),
    optional("return_url", Kind::Text),
    optional("setup_future_usage", Kind::Choice(&["off_session", "on_session"])),
    optional("statement_descriptor", Kind::Text),
    optional("statement_descriptor_suffix", Kind::Text),
    optional("transfer_data[amount]", Kind::Amount),
    optional("transfer_data[destination]", Kind::Text),
    optional("transfer_group", Kind::Text),
];

const CONFIRMATION: &[Param] = &[
    optional("off_session", Kind::Flag),
    optional("payment_method", Kind::Text),
    optional("receipt_email", Kind::Clearable),
    optional("return_url", Kind::Text),
];

const CANCELLATION: &[Param] = &[optional(
    "cancellation_reason",
    Kind::Choice(&["abandoned", "duplicate", "fraudulent", "requested_by_customer"]),
)];

const REFUND: &[Param] = &[
    optional("amount", Kind::Amount),
    optional("charge", Kind::Text),
    optional("payment_intent", Kind::Text),
    optional("metadata", Kind::Metadata),
    optional("reason", Kind::Choice(&["duplicate", "fraudulent", "requested_by_customer"])),
    optional("refund_application_fee", Kind::Flag),
    optional("reverse_transfer", Kind::Flag),
];

const NOTES: &[Param] = &[optional("description", Kind::Clearable), optional("metadata", Kind::Metadata)];

/// Everything that is answered.
pub(super) static ROUTES: &[Route] = &[
    Route { method: "POST", path: "/v1/accounts", params: &[ACCOUNT], run: accounts::create },
    Route {
        method: "GET",
        path: "/v1/accounts",
        params: &[PAGE, CREATED],
        run: |w, c| reads::accounts(w, c),
    },
    Route { method: "GET", path: "/v1/accounts/{}", params: &[], run: accounts::read },
    Route { method: "POST", path: "/v1/account_links", params: &[ACCOUNT_LINK], run: accounts::create_link },
    Route { method: "POST", path: "/v1/transfers", params: &[TRANSFER], run: transfers::create },
    Route {
        method: "GET",
        path: "/v1/transfers",
        params: &[
            PAGE,
            CREATED,
            &[optional("destination", Kind::Text), optional("transfer_group", Kind::Text)],
        ],
        run: |w, c| reads::list(w, c, "transfer", &["destination", "transfer_group"]),
    },
    Route {
        method: "GET",
        path: "/v1/transfers/{}",
        params: &[],
        run: |w, c| reads::get(w, c, "transfer", "transfer"),
    },
    Route { method: "POST", path: "/v1/transfers/{}", params: &[NOTES], run: transfers::update },
    Route {
        method: "POST",
        path: "/v1/transfers/{}/reversals",
        params: &[REVERSAL],
        run: transfers::reverse,
    },
    Route {
        method: "GET",
        path: "/v1/transfers/{}/reversals",
        params: &[PAGE],
        run: |w, c| reads::reversals(w, c),
    },
    Route {
        method: "GET",
        path: "/v1/transfers/{}/reversals/{}",
        params: &[],
        run: |w, c| reads::reversal(w, c),
    },
    Route { method: "POST", path: "/v1/payment_intents", params: &[INTENT], run: payments::create },
    Route {
        method: "GET",
        path: "/v1/payment_intents",
        params: &[PAGE, CREATED, &[optional("customer", Kind::Text)]],
        run: |w, c| reads::list(w, c, "payment_intent", &["customer"]),
    },
    Route {
        method: "GET",
        path: "/v1/payment_intents/{}",
        params: &[],
        run: |w, c| reads::get(w, c, "payment_intent", "intent"),
    },
    Route {
        method: "POST",
        path: "/v1/payment_intents/{}",
        params: &[NOTES, &[optional("receipt_email", Kind::Clearable)]],
        run: payments::update,
    },
    Route {
        method: "POST",
        path: "/v1/payment_intents/{}/confirm",
        params: &[CONFIRMATION],
        run: payments::confirm,
    },
    Route {
        method: "POST",
        path: "/v1/payment_intents/{}/cancel",
        params: &[CANCELLATION],
        run: payments::cancel,
    },
    Route {
        method: "GET",
        path: "/v1/charges",
        params: &[
            PAGE,
            CREATED,
            &[
                optional("customer", Kind::Text),
                optional("payment_intent", Kind::Text),
                optional("transfer_group", Kind::Text),
            ],
        ],
        run: |w, c| reads::list(w, c, "charge", &["customer", "payment_intent", "transfer_group"]),
    },
    Route {
        method: "GET",
        path: "/v1/charges/{}",
        params: &[],
        run: |w, c| reads::get(w, c, "charge", "id"),
    },
    Route { method: "POST", path: "/v1/refunds", params: &[REFUND], run: refunds::create },
    Route {
        method: "GET",
        path: "/v1/refunds",
        params: &[PAGE, CREATED, &[optional("charge", Kind::Text), optional("payment_intent", Kind::Text)]],
        run: |w, c| reads::list(w, c, "refund", &["charge", "payment_intent"]),
    },
    Route {
        method: "GET",
        path: "/v1/refunds/{}",
        params: &[],
        run: |w, c| reads::get(w, c, "refund", "id"),
    },
    Route { method: "GET", path: "/v1/balance", params: &[], run: |w, c| Ok(w.balance(&c.scope)) },
    Route {
        method: "GET",
        path: "/v1/payouts",
        params: &[PAGE, CREATED, &[optional("destination", Kind::Text), optional("status", Kind::Text)]],
        run: |w, c| reads::list(w, c, "payout", &["destination", "status"]),
    },
    Route {
        method: "GET",
        path: "/v1/payouts/{}",
        params: &[],
        run: |w, c| reads::get(w, c, "payout", "payout"),
    },
    Route {
        method: "GET",
        path: "/v1/balance_transactions",
        params: &[
            PAGE,
            CREATED,
            &[
                optional("currency", Kind::Currency),
                optional("source", Kind::Text),
                optional("type", Kind::Text),
            ],
        ],
        run: |w, c| reads::list(w, c, "balance_transaction", &["currency", "source", "type"]),
    },
    Route {
        method: "GET",
        path: "/v1/balance_transactions/{}",
        params: &[],
        run: |w, c| reads::get(w, c, "balance_transaction", "id"),
    },
    Route {
        method: "GET",
        path: "/v1/events",
        params: &[
            PAGE,
            CREATED,
            &[
                optional("delivery_success", Kind::Flag),
                optional("type", Kind::Text),
                optional("types", Kind::List),
            ],
        ],
        run: |w, c| reads::events(w, c),
    },
    Route { method: "GET", path: "/v1/events/{}", params: &[], run: |w, c| reads::get(w, c, "event", "id") },
];

/// The route for a request.
pub(super) fn find(method: &str, path: &str) -> Result<Found, ApiError> {
    let same_method = ROUTES.iter().filter(|route| route.method == method);
    let mut found = same_method.filter_map(|route| Some(Found { route, args: args(route.path, path)? }));
    found.next().ok_or_else(|| {
        let message = format!("Unrecognized request URL ({method}: {path}).");
        ApiError::invalid(404, None, message)
    })
}

/// What stands for each `{}`, if the path has the pattern.
fn args(pattern: &str, path: &str) -> Option<Vec<String>> {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    let mut args = Vec::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(args),
            (Some("{}"), Some(id)) if !id.is_empty() => args.push(id.to_owned()),
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}
